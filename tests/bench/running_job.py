"""What a job that runs on this machine tells: where it is served, its status, and the summary that `run --json` ends with."""
import json
import os
import urllib.request


def ports(out):
    """Of the job with that output directory; none while it isn't served yet."""
    try:
        with open(os.path.join(out, "coordinator.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def url(out):
    served = ports(out)
    return served and f"http://{served['address']}:{served['http_port']}"


def get(out, path):
    """The JSON at a path of its server; none when there is no answer, or another one."""
    try:
        where = url(out)
        if where is None:
            return None
        with urllib.request.urlopen(where + path, timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def summary(output):
    """The object on the last line of what the run printed; none where it printed nothing."""
    lines = output.strip().splitlines()
    return json.loads(lines[-1]) if lines else None
