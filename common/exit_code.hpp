// What a process's exit code tells its caller, so that a scheduler knows whether trying again helps.
//
//   0  done
//   1  the run failed, or a bug
//   2  wrong usage or configuration, a path that can't be used, a worker that isn't there: correct it
//   3  data, checkpoint, job file or directory missing or damaged
//   4  refused: job hash, protocol version or numeric class differ; trying again can't help
//   5  unavailable: port busy, coordinator unreachable, disk or memory used up; trying again may help
//   6  stopped before the end, by a signal or an operator
//
// Thread contract: pure functions.
#pragma once

#include <optional>

#include "common/result.hpp"

namespace planaria {

enum class ExitCode : int { ok = 0, failed = 1, usage = 2, data = 3, refused = 4, unavailable = 5, stopped = 6 };

[[nodiscard]] ExitCode exit_code_of(ErrorCode code);

// The kind of error behind the exit code of a planaria process, such that exit_code_of() gives the code again; foreign
// codes are `internal`. Nothing for 0.
[[nodiscard]] std::optional<ErrorCode> error_code_of_exit(int code);

}  // namespace planaria
