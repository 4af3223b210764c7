#include "common/cpu_quota.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <string_view>

namespace planaria {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();
constexpr int kMostGroups = 64;  // of a process, and around each other
constexpr Duration kLooksBetween = std::chrono::seconds(1);

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<double> positive(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value > 0 ? std::optional(value) : std::nullopt;
}

// "QUOTA PERIOD" or "max PERIOD".
double limit_of_v2(const std::string& group) {
  const std::string line = first_line(group + "/cpu.max");
  const std::size_t space = line.find(' ');
  if (space == std::string::npos) return kUnlimited;
  const auto quota = positive(std::string_view(line).substr(0, space));
  const auto period = positive(std::string_view(line).substr(space + 1));
  return quota && period ? *quota / *period : kUnlimited;
}

double limit_of_v1(const std::string& group) {
  const auto quota = positive(first_line(group + "/cpu.cfs_quota_us"));  // -1: none
  const auto period = positive(first_line(group + "/cpu.cfs_period_us"));
  return quota && period ? *quota / *period : kUnlimited;
}

template <class LimitOf>
double tightest(const std::string& mount, std::string path, LimitOf limit_of) {
  double least = limit_of(mount);
  for (int i = 0; i < kMostGroups && path.size() > 1; ++i) {
    least = std::min(least, limit_of(mount + path));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return least;
}

bool lists(std::string_view controllers, std::string_view wanted) {
  while (!controllers.empty()) {
    const std::size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == wanted) return true;
    controllers.remove_prefix(std::min(comma + 1, controllers.size()));
  }
  return false;
}

}  // namespace

// Lines of the process's file are HIERARCHY:CONTROLLERS:PATH; version 2 names no controllers.
double cpu_quota(const ControlGroupFiles& files) {
  std::ifstream groups(files.of_process);
  double least = kUnlimited;
  std::string line;
  for (int i = 0; i < kMostGroups && std::getline(groups, line); ++i) {
    const std::size_t controllers = line.find(':');
    const std::size_t path = controllers == std::string::npos ? controllers : line.find(':', controllers + 1);
    if (path == std::string::npos) continue;
    const std::string_view named = std::string_view(line).substr(controllers + 1, path - controllers - 1);
    if (named.empty()) {
      least = std::min(least, tightest(files.root, line.substr(path + 1), limit_of_v2));
    } else if (lists(named, "cpu")) {
      least = std::min(least, tightest(files.root + "/cpu", line.substr(path + 1), limit_of_v1));
    }
  }
  return least;
}

void QuotaTimer::begin() {
  if (const Instant now = clock_.now(); now >= look_at_) {
    quota_ = cpu_quota(files_);
    look_at_ = now + kLooksBetween;
  }
  if (std::isfinite(quota_)) began_ = processor_.now();
}

Duration QuotaTimer::spent() const {
  return std::isfinite(quota_) ? processor_.now() - began_ : Duration{};
}

Duration QuotaTimer::granted_in(Duration spent) const {
  return Duration(static_cast<std::int64_t>(static_cast<double>(spent.count()) / quota_));
}

}  // namespace planaria
