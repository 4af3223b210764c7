#include "coordinator/planner/cluster_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/config.hpp"

namespace planaria {
namespace {

constexpr double kBytesPerGbit = 1e9 / 8;
constexpr double kMicrosecond = 1e-6;
constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
constexpr NumberRange kBandwidth{1e-6, 1e6};
constexpr NumberRange kLatency{0, 1e8};

void read_link(ConfigReader& reader, LinkProfile& link) {
  double value = 0;
  if (reader.key("bandwidth_gbit", value, kBandwidth)) link.bytes_per_s = value * kBytesPerGbit;
  if (reader.key("latency_us", value, kLatency)) link.latency_s = value * kMicrosecond;
}

// Of a worker that shares its host with nobody: a name that no file gives.
std::string own_host(WorkerId worker) {
  return fmt::format("#{}", worker.value());
}

class ClusterReader {
 public:
  explicit ClusterReader(ConfigReader& reader) : reader_(&reader) {}

  Result<ClusterFile> read() {
    double gflops = 0;
    if (reader_->key("gflops", gflops, {1e-6, 1e9})) file_.flops_per_s = gflops * 1e9;
    reader_->section("same_host");
    read_link(*reader_, cluster().same_host);
    reader_->section("same_zone");
    read_link(*reader_, cluster().same_zone);
    reader_->section("between_zones");
    read_link(*reader_, cluster().between_zones);
    reader_->each("nic", [&](ConfigReader& table, std::size_t number) { read_nic(table, number); });
    reader_->each("worker", [&](ConfigReader& table, std::size_t) { read_workers(table); });
    reader_->each("link", [&](ConfigReader& table, std::size_t number) { read_pair(table, number); });
    reader_->section("");
    if (cluster().workers.empty()) reader_->refuse("worker", "a cluster has workers: [[worker]] tables");
    PLANARIA_TRY(reader_->finish());
    return std::move(file_);
  }

 private:
  ClusterProfile& cluster() { return file_.cluster; }

  void read_nic(ConfigReader& table, std::size_t number) {
    NicProfile nic;
    if (!table.key("name", nic.name) || nic.name.empty()) table.refuse("name", "every nic has a name");
    nic.link = cluster().same_zone;
    read_link(table, nic.link);
    if (std::ranges::find(cluster().nics, nic.name, &NicProfile::name) != cluster().nics.end()) {
      table.refuse("name", "this nic is there already");
    }
    if (number == kMaxClusterNics) table.refuse("name", fmt::format("a cluster has at most {} nics", kMaxClusterNics));
    if (number < kMaxClusterNics) cluster().nics.push_back(std::move(nic));
  }

  void read_workers(ConfigReader& table) {
    std::uint32_t count = 1;
    table.key("count", count, {.min = 1, .max = static_cast<std::int64_t>(kMaxClusterWorkers)});
    WorkerProfile worker;
    table.key("speed", worker.speed, {1e-6, 1e6});
    double memory = 16;
    table.key("memory_gib", memory, {1e-6, 1e6});
    worker.memory_bytes = static_cast<std::uint64_t>(memory * kGib);
    table.key("host", worker.host);
    table.key("zone", worker.zone);
    if (table.key("nic", worker.nic) &&
        std::ranges::find(cluster().nics, worker.nic, &NicProfile::name) == cluster().nics.end()) {
      std::vector<std::string> names;
      for (const NicProfile& nic : cluster().nics) names.push_back(nic.name);
      const std::string near = nearest(worker.nic, names);
      table.refuse("nic", fmt::format("there is no [[nic]] \"{}\"{}", worker.nic,
                                      near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
    }
    const std::size_t before = cluster().workers.size();
    if (before + count > kMaxClusterWorkers) {
      table.refuse("count", fmt::format("a cluster has at most {} workers", kMaxClusterWorkers));
      return;
    }
    if (worker.host.starts_with('#')) table.refuse("host", "names with # in front are those of workers without a host");
    if (!worker.host.empty()) {
      const auto [zone, added] = zones_.emplace(worker.host, worker.zone);
      if (!added && zone->second != worker.zone) {
        table.refuse("host", fmt::format("host \"{}\" lies in zone \"{}\" already", worker.host, zone->second));
      }
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      worker.worker = WorkerId(static_cast<std::uint32_t>(before + i));
      cluster().workers.push_back(worker);
      if (worker.host.empty()) cluster().workers.back().host = own_host(worker.worker);
    }
  }

  void read_pair(ConfigReader& table, std::size_t number) {
    std::uint32_t from = 0;
    std::uint32_t to = 0;
    const bool ends = table.key("from", from) && table.key("to", to);
    LinkProfile link = cluster().same_zone;
    read_link(table, link);
    if (number == kMaxClusterLinks) {
      table.refuse("from", fmt::format("a cluster has at most {} links of their own", kMaxClusterLinks));
    }
    if (number >= kMaxClusterLinks) return;
    const std::size_t workers = cluster().workers.size();
    if (!ends || from == to || from >= workers || to >= workers) {
      table.refuse("from", fmt::format("a link joins two of the workers 0 to {}", workers == 0 ? 0 : workers - 1));
      return;
    }
    cluster().overrides.push_back({WorkerId(from), WorkerId(to), link});
  }

  ConfigReader* reader_;
  ClusterFile file_;
  std::map<std::string, std::string> zones_;
};

std::string quoted(const std::string& text) {
  ConfigWriter writer;
  writer.key("x", text);
  return writer.text().substr(4);  // after "x = "
}

std::string link_text(const LinkProfile& link) {
  return fmt::format("bandwidth_gbit = {:e}\nlatency_us = {:e}\n", link.bytes_per_s / kBytesPerGbit,
                     link.latency_s / kMicrosecond);
}

}  // namespace

Result<ClusterFile> load_cluster(const std::string& path) {
  PLANARIA_ASSIGN(ConfigReader reader, ConfigReader::from_file(path));
  return ClusterReader(reader).read();
}

Result<ClusterFile> parse_cluster(std::string_view text, std::string source) {
  PLANARIA_ASSIGN(ConfigReader reader, ConfigReader::from_text(text, std::move(source)));
  return ClusterReader(reader).read();
}

std::string cluster_to_toml(const ClusterFile& file) {
  const ClusterProfile& cluster = file.cluster;
  std::string text =
      fmt::format("gflops = {:e}\n[same_host]\n{}[same_zone]\n{}[between_zones]\n{}", file.flops_per_s / 1e9,
                  link_text(cluster.same_host), link_text(cluster.same_zone), link_text(cluster.between_zones));
  for (const NicProfile& nic : cluster.nics) {
    text += fmt::format("[[nic]]\nname = {}{}", quoted(nic.name), link_text(nic.link));
  }
  for (const WorkerProfile& worker : cluster.workers) {
    text += fmt::format("[[worker]]\nspeed = {:e}\nmemory_gib = {:e}\n", worker.speed,
                        static_cast<double>(worker.memory_bytes) / kGib);
    if (worker.host != own_host(worker.worker)) text += "host = " + quoted(worker.host);
    text += "zone = " + quoted(worker.zone);
    if (!worker.nic.empty()) text += "nic = " + quoted(worker.nic);
  }
  for (const LinkOverride& pair : cluster.overrides) {
    text += fmt::format("[[link]]\nfrom = {}\nto = {}\n{}", pair.from.value(), pair.to.value(), link_text(pair.link));
  }
  return text;
}

}  // namespace planaria
