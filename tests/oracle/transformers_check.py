#!/usr/bin/env python3
"""Compares planaria with Hugging Face transformers, both ways, for GPT-2 and Llama:

export    what `planaria export` wrote loads in transformers, with the logits and the loss that `planaria evaluate` tells
import    random models that save_pretrained wrote, in one file, in shards and in bf16, have here the loss and the logits
          that they have there
start     a job with `model.pretrained` begins at those weights: after one step with a rate of nearly 0 its export has them

Everything is made in a working directory; no network is used. Needs torch and transformers.
Prints a line for each check, and exits with 0 when all hold, 1 when one doesn't, 2 when something needed is missing.

    tests/oracle/transformers_check.py --planaria build/release/planaria
    tests/oracle/transformers_check.py --planaria ./planaria --libraries ./lib --gpt2 export-gpt2 --llama export-llama
    tests/oracle/transformers_check.py --planaria-device cuda
"""
import argparse
import array
import copy
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

VOCAB, CONTEXT, WINDOWS = 256, 64, 6
SHARD_SIZE = "150KB"

JOBS = {
    "gpt2": 'family = "gpt2"\nlayers = 3\nheads = 4\nwidth = 64\ntied_embedding = true\n',
    "llama": 'family = "llama"\nlayers = 3\nheads = 4\nkv_heads = 2\nwidth = 64\nffn_width = 160\n'
             'tied_embedding = false\nrope_theta = 50000.0\n',
}
TRAINING = """
[data]
path = "%s"
format = "tokens_u16"
validation_fraction = 0.2

[batch]
micro_batches = 8

[optimizer]
learning_rate = %s
warmup_steps = 0

[train]
steps = %d
evaluate_every = 0
evaluation_batches = 1

[cluster]
workers = 1
lease_ms = 5000
prepare_timeout_ms = 6000
"""


class Planaria:
    def __init__(self, binary, libraries, device):
        self.binary = os.path.abspath(binary)
        self.device = device
        self.environment = dict(os.environ)
        if libraries:  # not for this process: its own libraries may be others
            self.environment["LD_LIBRARY_PATH"] = os.path.abspath(libraries)

    def __call__(self, *arguments):
        """Standard output; a failure ends the script."""
        command = [self.binary] + [str(argument) for argument in arguments]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            sys.exit("FAILED: %s: exit code %d\n%s" % (" ".join(command), done.returncode,
                                                       (done.stdout + done.stderr).decode(errors="replace")))
        return done.stdout.decode()

    def evaluate(self, model, tokens, logits):
        return json.loads(self("evaluate", model, "--tokens", tokens, "--context", CONTEXT, "--logits", logits,
                               "--device", self.device, "--json").splitlines()[-1])

    def train(self, job, output, exported):
        self("run", job, "--out", output, "--device", self.device, "--precision", "fp32", "--quiet")
        self("export", "--from", output, "--to", exported)


def read_safetensors(path):
    """Tensors of F32 by name, without the safetensors package: an independent reader of what planaria writes."""
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", entry
        begin, end = entry["data_offsets"]
        data = bytearray(content[8 + length + begin:8 + length + end])
        tensors[name] = torch.frombuffer(data, dtype=torch.float32).reshape(entry["shape"])
    return tensors


def write_tokens(path, count, seed):
    """Raw uint16 tokens that a model can learn something of."""
    choose = random.Random(seed)
    tokens = [choose.randrange(VOCAB)]
    while len(tokens) < count:
        tokens.append((tokens[-1] * 5 + choose.choice((1, 2, 3))) % VOCAB)
    shard = array.array("H", tokens)
    assert shard.itemsize == 2
    if sys.byteorder == "big":
        shard.byteswap()
    with open(path, "wb") as file:
        shard.tofile(file)
    return tokens


class Checks:
    def __init__(self, planaria, device, tolerance, folder):
        self.planaria, self.device, self.tolerance, self.folder = planaria, device, tolerance, folder
        self.tokens_file = os.path.join(folder, "tokens.bin")
        self.tokens = write_tokens(self.tokens_file, WINDOWS * CONTEXT + 1, 1)
        self.training_file = os.path.join(folder, "training.bin")
        write_tokens(self.training_file, 20000, 2)
        self.failed = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def tell(self, name, difference, what):
        holds = difference <= self.tolerance  # false for NaN
        self.failed += not holds
        print("%-6s %-28s %-7s differ by %.2e" % ("ok" if holds else "FAILED", name, what, difference), flush=True)

    def theirs(self, model):
        """Logits [windows, context, vocab] and the mean loss, in fp32, of a model as transformers has it."""
        model = model.float().eval().to(self.device)
        stream = torch.tensor(self.tokens)
        inputs = stream[:-1].reshape(WINDOWS, CONTEXT)
        targets = stream[1:].reshape(WINDOWS, CONTEXT)
        with torch.no_grad():
            logits = torch.cat([model(input_ids=row[None].to(self.device)).logits for row in inputs])
        logits = logits.double().cpu()
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
        return logits, float(loss)

    def same_model(self, name, directory, model=None):
        """`model`: what the directory was written from; absent: transformers loads the directory."""
        if model is None:
            model = transformers.AutoModelForCausalLM.from_pretrained(directory)
        logits, loss = self.theirs(model)
        file = self.path("logits.safetensors")
        told = self.planaria.evaluate(directory, self.tokens_file, file)
        ours = read_safetensors(file)["logits"].double()
        assert told["windows"] == WINDOWS and ours.shape == logits.shape, (told, ours.shape, logits.shape)
        self.tell(name, float((ours - logits).abs().max()), "logits")
        self.tell(name, abs(told["loss"] - loss), "loss")

    def export(self, family, directory):
        if directory is None:
            directory = self.path("export-" + family)
            job = self.path("job-%s.toml" % family)
            with open(job, "w") as file:
                file.write("[model]\nvocab = %d\ncontext = %d\n%s" % (VOCAB, CONTEXT, JOBS[family]))
                file.write(TRAINING % (self.training_file, "2e-3", 20))
            self.planaria.train(job, self.path("run-" + family), directory)
        self.same_model(family + " export", directory)

    def start(self, name, directory):
        """One step with a rate that moves no weight by more than rounding."""
        job = self.path("job-start.toml")
        run, exported = self.path("run-start"), self.path("export-start")
        shutil.rmtree(run, ignore_errors=True)
        with open(job, "w") as file:
            file.write(self.planaria("import", directory))
            file.write(TRAINING % (self.training_file, "1e-9", 1))
        self.planaria.train(job, run, exported)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(directory).float().state_dict()
        ours = read_safetensors(os.path.join(exported, "model.safetensors"))
        missing = [key for key in ours if key not in theirs]
        assert not missing, missing
        self.tell(name + " start", max(float((ours[key] - theirs[key]).abs().max()) for key in ours), "weights")


def random_model(family, seed):
    torch.manual_seed(seed)
    if family == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=64, n_layer=3, n_head=4,
                                         initializer_range=0.1, tie_word_embeddings=seed % 2 == 1,
                                         bos_token_id=0, eos_token_id=0)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(vocab_size=VOCAB, max_position_embeddings=CONTEXT, hidden_size=64,
                                          intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
                                          num_key_value_heads=2, initializer_range=0.1, rms_norm_eps=1e-5,
                                          tie_word_embeddings=seed % 2 == 0, bos_token_id=0, eos_token_id=0)
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # gains of 1 and biases of 0 would hide that they were mixed up
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def check_imports(checks, family):
    for seed in (1, 2):
        model = random_model(family, seed)
        single = checks.path("%s-single-%d" % (family, seed))
        model.save_pretrained(single)
        checks.same_model("%s import, one file (%d)" % (family, seed), single, model)
        sharded = checks.path("%s-sharded-%d" % (family, seed))
        model.save_pretrained(sharded, max_shard_size=SHARD_SIZE)
        assert os.path.exists(os.path.join(sharded, "model.safetensors.index.json")), "transformers made no shards"
        checks.same_model("%s import, shards (%d)" % (family, seed), sharded, model)
        checks.start("%s (%d)" % (family, seed), sharded)
    halves = checks.path(family + "-bf16")
    model = random_model(family, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(halves)  # a copy: this rounds rope's frequencies, too
    checks.same_model(family + " import, bf16", halves, model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planaria", default="build/release/planaria", help="the binary (default: %(default)s)")
    parser.add_argument("--libraries", help="a directory of libraries for it alone (LD_LIBRARY_PATH)")
    parser.add_argument("--gpt2", metavar="DIR", help="an export of a GPT-2 to check; default: a short training run's")
    parser.add_argument("--llama", metavar="DIR", help="the same of a Llama; both take tokens below %d and a context of "
                                                       "at least %d" % (VOCAB, CONTEXT))
    parser.add_argument("--device", default="cpu", help="where transformers computes (default: %(default)s)")
    parser.add_argument("--planaria-device", default="cpu",
                        help="where planaria computes, in fp32: cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of each value (default: %(default)s)")
    parser.add_argument("--work", metavar="DIR", help="working directory, which stays; default: a temporary one")
    arguments = parser.parse_args()

    global torch, transformers
    try:
        import torch
        import transformers
    except ImportError as missing:
        print("transformers_check: %s: this check needs torch and transformers" % missing, file=sys.stderr)
        return 2
    if not os.access(arguments.planaria, os.X_OK):
        print("transformers_check: no program at %s: give --planaria" % arguments.planaria, file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False  # 10 bits would not do
    torch.backends.cudnn.allow_tf32 = False
    planaria = Planaria(arguments.planaria, arguments.libraries, arguments.planaria_device)
    print("%stransformers %s, torch %s, python %s" % (planaria("--version"), transformers.__version__,
                                                      torch.__version__, sys.version.split()[0]), flush=True)
    folder = arguments.work or tempfile.mkdtemp(prefix="transformers-check-")
    os.makedirs(folder, exist_ok=True)
    if os.listdir(folder):
        print("transformers_check: %s is not empty" % folder, file=sys.stderr)
        return 2
    try:
        checks = Checks(planaria, arguments.device, arguments.tolerance, folder)
        for family in ("gpt2", "llama"):
            checks.export(family, arguments.gpt2 if family == "gpt2" else arguments.llama)
            check_imports(checks, family)
    finally:
        if not arguments.work:
            shutil.rmtree(folder, ignore_errors=True)
    print("all hold" if checks.failed == 0 else "%d of the checks failed" % checks.failed)
    return 0 if checks.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
