// What a process's exit code tells its caller, so that a scheduler knows whether trying again helps.
//
//   0  done
//   1  the run failed, or a bug
//   2  wrong usage or configuration: correct it
//   3  data, checkpoint or file missing or damaged
//   4  refused: job hash, protocol version or numeric class differ; trying again can't help
//   5  unavailable: port busy, coordinator unreachable, disk or memory used up; trying again may help
//   6  stopped before the end, by a signal or an operator
//
// Thread contract: any thread.
#pragma once

#include "common/result.hpp"

namespace planaria {

enum class ExitCode : int { ok = 0, failed = 1, usage = 2, data = 3, refused = 4, unavailable = 5, stopped = 6 };

[[nodiscard]] ExitCode exit_code_of(ErrorCode code);

// Prints "planaria: message" on standard error and returns the error's exit code.
int fail(const Error& error);

}  // namespace planaria
