// Where a coordinator may listen, and what that asks for.
//
// Thread contract: pure functions.
#pragma once

#include <string>

#include "common/result.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

// An IP address that only this machine reaches.
[[nodiscard]] bool is_loopback(const std::string& address);

// Refuses what is no IP address, and half a TLS configuration.
[[nodiscard]] Status check_listen_form(const JobSpec& job);

// For who is about to listen: refuses, too, other addresses than loopback without a join token and TLS, unless
// security.insecure says so. It isn't the job's own contradiction, as the token is in no file that a run leaves.
[[nodiscard]] Status check_listen(const JobSpec& job);

}  // namespace planaria
