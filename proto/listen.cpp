#include "proto/listen.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>

namespace planaria {

namespace {

enum class AddressKind : std::uint8_t { loopback, other, none };

AddressKind kind_of(const std::string& address) {
  in_addr v4{};
  in6_addr v6{};
  if (::inet_pton(AF_INET, address.c_str(), &v4) == 1) {
    return (ntohl(v4.s_addr) >> 24) == 127 ? AddressKind::loopback : AddressKind::other;
  }
  if (::inet_pton(AF_INET6, address.c_str(), &v6) == 1) {
    return IN6_IS_ADDR_LOOPBACK(&v6) ? AddressKind::loopback : AddressKind::other;
  }
  return AddressKind::none;
}

}  // namespace

bool is_loopback(const std::string& address) {
  return kind_of(address) == AddressKind::loopback;
}

Status check_listen_form(const JobSpec& job) {
  const auto& security = job.security;
  if (kind_of(job.cluster.listen) == AddressKind::none) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("cluster.listen is \"{}\"; write an IP address of this machine, or 0.0.0.0 for all",
                             job.cluster.listen));
  }
  const auto files = {&security.tls_certificate, &security.tls_key, &security.tls_authority};
  const auto given = std::ranges::count_if(files, [](const std::string* file) { return !file->empty(); });
  if (given != 0 && given != 3) {
    return Error(ErrorCode::invalid_argument,
                 "security.tls_certificate, tls_key and tls_authority belong together; set all three or none");
  }
  return ok_status();
}

Status check_listen(const JobSpec& job) {
  PLANARIA_TRY(check_listen_form(job));
  const auto& security = job.security;
  if (is_loopback(job.cluster.listen) || security.insecure) return ok_status();
  if (security.join_token.empty() || security.tls_key.empty()) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("cluster.listen = \"{}\" can be reached from other machines: set security.join_token and "
                             "security.tls_certificate, tls_key and tls_authority, or security.insecure = true on a "
                             "network where everyone is trusted",
                             job.cluster.listen));
  }
  return ok_status();
}

}  // namespace planaria
