#include "chaos/faults/coordinator_file.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

namespace planaria {
namespace {

std::string reachable(const std::string& listen) {
  if (listen.empty() || listen == "0.0.0.0") return "127.0.0.1";
  return listen == "::" ? "::1" : listen;
}

bool read_port(const nlohmann::json& file, const char* key, std::uint16_t& port) {
  const auto found = file.find(key);
  if (found == file.end() || !found->is_number_unsigned()) return false;
  const auto number = found->get<std::uint64_t>();
  port = static_cast<std::uint16_t>(number);
  return number == port;
}

}  // namespace

std::string CoordinatorFile::at(std::uint16_t port) const {
  const bool ipv6 = address.find(':') != std::string::npos;
  return (ipv6 ? "[" + address + "]" : address) + ":" + std::to_string(port);
}

std::string coordinator_file_path(const std::string& directory) {
  return directory + "/coordinator.json";
}

Result<CoordinatorFile> read_coordinator_file(const std::string& directory) {
  const std::string path = coordinator_file_path(directory);
  std::ifstream stream(path);
  if (!stream) {
    return Error(ErrorCode::not_found, directory + " has no coordinator.json: no coordinator has begun to serve there");
  }
  const auto file = nlohmann::json::parse(stream, nullptr, false);
  CoordinatorFile place;
  if (!file.is_object() || !read_port(file, "control_port", place.control_port) ||
      !read_port(file, "http_port", place.http_port)) {
    return Error(ErrorCode::corrupt, path +
                                         " doesn't name the coordinator's ports: a start of it was cut short; "
                                         "start it again");
  }
  read_port(file, "telemetry_port", place.telemetry_port);
  const auto address = file.find("address");
  place.address = reachable(address != file.end() && address->is_string() ? address->get<std::string>() : "");
  return place;
}

}  // namespace planaria
