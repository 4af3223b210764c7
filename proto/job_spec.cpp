#include "proto/job_spec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <concepts>

#include "common/codec.hpp"
#include "common/config.hpp"
#include "proto/device_choice.hpp"
#include "proto/job_keys.hpp"
#include "proto/listen.hpp"

namespace planaria {
namespace {

constexpr std::string_view kHashDomain = "planaria job 1";
constexpr std::uint64_t kMaxTiles = 1ULL << 22;
constexpr std::uint32_t kHeartbeatsPerLease = 3;

// Holds every key against its range: a job may come from a peer instead of a file.
class RangeChecker {
 public:
  explicit RangeChecker(Problems& problems) : problems_(problems) {}
  void section(std::string_view name) { section_ = name; }
  template <std::integral T>
  requires(!std::same_as<T, bool>) void key(std::string_view name, const T& value, const IntegerRange& range) {
    if (std::cmp_less(value, range.min) || std::cmp_greater(value, range.max)) {
      refuse(name, fmt::format("{}", value), expectation(range));
    }
  }
  void key(std::string_view name, const double& value, const NumberRange& range) {
    if (!(value >= range.min && value <= range.max)) refuse(name, fmt::format("{}", value), expectation(range));
  }
  template <class E>
  requires std::is_enum_v<E>
  void key(std::string_view name, const E& value, std::span<const std::string_view> names) {
    const auto index = static_cast<std::size_t>(value);
    if (index >= names.size()) refuse(name, fmt::format("{}", index), expectation(names));
  }
  void key(std::string_view, const bool&) {}
  void key(std::string_view, const Hash128&) {}
  void key(std::string_view name, const std::string& value) {
    if (value.size() > kMaxConfigString) {
      refuse(name, fmt::format("{} bytes", value.size()), fmt::format("at most {} bytes", kMaxConfigString));
    }
  }
  void path(std::string_view name, const std::string& value) { key(name, value); }
  void secret(std::string_view name, const std::string& value) { key(name, value); }

 private:
  void refuse(std::string_view name, const std::string& value, const std::string& expected) {
    problems_.add(
        fmt::format("{}{}{} = {}: expected {}", section_, section_.empty() ? "" : ".", name, value, expected));
  }
  Problems& problems_;
  std::string section_;
};

// Upper bound of the model's elements, without building its map. Ranges hold, so nothing overflows.
std::uint64_t model_elements(const ModelSpec& model) {
  const std::uint64_t width = model.width;
  const std::uint64_t attention = 4 * width * width;
  const std::uint64_t feed_forward = (model.family == ModelFamily::gpt2 ? 2 : 3) * width * model.ffn_width;
  const std::uint64_t small = 16 * width + model.ffn_width;
  return model.layers * (attention + feed_forward + small) + (2ULL * model.vocab + model.context) * width;
}

void check_model(const JobSpec& job, Problems& problems) {
  const ModelSpec& model = job.model;
  if (model.width % model.heads != 0) {
    problems.add(fmt::format("model.width = {} is not a multiple of model.heads = {}; change one of them", model.width,
                             model.heads));
  }
  if (model.heads % model.kv_heads != 0) {
    problems.add(fmt::format("model.heads = {} is not a multiple of model.kv_heads = {}; change model.kv_heads",
                             model.heads, model.kv_heads));
  }
  if (model.family == ModelFamily::gpt2 && model.kv_heads != model.heads) {
    problems.add(fmt::format(
        "model.kv_heads = {} differs from model.heads = {}, which needs model.family = \"llama\"; leave kv_heads out",
        model.kv_heads, model.heads));
  }
  if (model.family == ModelFamily::llama && model.width / model.heads % 2 != 0) {
    problems.add(fmt::format("model.width / model.heads = {} is odd, and rotary positions need pairs; change one",
                             model.width / model.heads));
  }
  if (model.family == ModelFamily::llama && model.dropout != 0.0) {
    problems.add(
        fmt::format("model.dropout = {} with model.family = \"llama\", which has none; set it to 0", model.dropout));
  }
  if (job.pretrained.path.empty() && job.pretrained.weights_hash != Hash128{}) {
    problems.add(
        "model.pretrained_hash is given without model.pretrained, the directory of the weights; name it or "
        "leave both out");
  }
  if (!std::has_single_bit(job.train.tile_elements)) {
    problems.add(fmt::format("train.tile_elements = {} is not a power of two; use {}", job.train.tile_elements,
                             std::bit_ceil(job.train.tile_elements)));
  }
  const std::uint64_t tiles = model_elements(model) / job.train.tile_elements;
  if (tiles > kMaxTiles) {
    problems.add(fmt::format("the model has about {} tiles of train.tile_elements = {}, more than {}; raise it", tiles,
                             job.train.tile_elements, kMaxTiles));
  }
}

// It names directories.
void check_name(const JobSpec& job, Problems& problems) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  const bool plain = !job.name.empty() && job.name.size() <= 64 && job.name.front() != '.' &&
                     job.name.find_first_not_of(kLetters) == std::string::npos;
  if (!plain) {
    problems.add(
        fmt::format("name = \"{}\": expected 1 to 64 letters, digits, dots, dashes and underscores", job.name));
  }
}

void check_data(const JobSpec& job, Problems& problems) {
  const DataSpec& data = job.data;
  if (data.path.empty()) {
    problems.add("data.path is missing; name a text file, a directory or a file of tokens to train on");
  }
  if (data.format == DataFormat::text && data.tokenizer == TokenizerKind::bytes && job.model.vocab < 256) {
    problems.add(
        fmt::format("model.vocab = {} is too small for data.tokenizer = \"bytes\"; set it to 256", job.model.vocab));
  }
  if (data.format == DataFormat::tokens_u16 && job.model.vocab > 65536) {
    problems.add(fmt::format("model.vocab = {} exceeds the 65536 tokens that data.format = \"tokens_u16\" can name",
                             job.model.vocab));
  }
  if (data.tokenizer == TokenizerKind::bpe && data.tokenizer_file.empty()) {
    problems.add("data.tokenizer = \"bpe\" needs data.tokenizer_file, a tokenizer.json");
  }
  if (data.tokenizer == TokenizerKind::bytes && !data.tokenizer_file.empty()) {
    problems.add(
        fmt::format("data.tokenizer_file = \"{}\" is not used by data.tokenizer = \"bytes\"; say \"bpe\" or "
                    "leave the file out",
                    data.tokenizer_file));
  }
}

void check_batch(const JobSpec& job, Problems& problems) {
  const BatchSpec& batch = job.batch;
  if (!std::has_single_bit(batch.slots)) {
    problems.add(
        fmt::format("batch.slots = {} is not a power of two; use {}", batch.slots, std::bit_floor(batch.slots)));
  } else if (batch.micro_batches % batch.slots != 0) {
    problems.add(fmt::format("batch.micro_batches = {} is not a multiple of batch.slots = {}; use slots = {} or fewer",
                             batch.micro_batches, batch.slots, 1U << std::countr_zero(batch.micro_batches)));
  }
  if (job.cluster.workers > batch.slots) {
    problems.add(
        fmt::format("cluster.workers = {} exceeds batch.slots = {}, so some would never work; raise "
                    "batch.slots (best: 32 a worker)",
                    job.cluster.workers, batch.slots));
  }
  // Sequence indices over the whole run, and token counts of a step, stay far from 64 bits.
  const auto sequences = static_cast<unsigned __int128>(job.train.steps) * job.sequences_per_step();
  if (sequences >= (static_cast<unsigned __int128>(1) << 62)) {
    problems.add("train.steps · batch.micro_batches · batch.sequences exceeds 2^62 sequences; lower one of them");
  }
}

void check_snapshot(const JobSpec& job, Problems& problems) {
  const SnapshotSpec& snapshot = job.snapshot;
  const std::uint32_t fragments = snapshot.data + snapshot.parity;
  if (fragments > kMaxFragments) {
    problems.add(
        fmt::format("snapshot.data + snapshot.parity = {} exceeds {}; lower one of them", fragments, kMaxFragments));
  }
  if (!snapshot.durable) return;
  const std::uint64_t every = snapshot.every_steps;
  if (every == 0 || job.checkpoint.every_steps % every != 0) {
    problems.add(
        fmt::format("snapshot.durable saves the states of checkpoint.every_steps = {}, and snapshot.every_steps = {} "
                    "doesn't protect them all; make the first a multiple of the second",
                    job.checkpoint.every_steps, every));
  }
}

void check_optimizer(const JobSpec& job, Problems& problems) {
  const OptimizerSpec& optimizer = job.optimizer;
  if (optimizer.learning_rate <= 0.0) problems.add("optimizer.learning_rate = 0 trains nothing; try 6e-4");
  if (optimizer.min_learning_rate > optimizer.learning_rate) {
    problems.add(fmt::format("optimizer.min_learning_rate = {} exceeds optimizer.learning_rate = {}; lower it",
                             optimizer.min_learning_rate, optimizer.learning_rate));
  }
  for (const auto& [name, beta] : {std::pair("beta1", optimizer.beta1), std::pair("beta2", optimizer.beta2)}) {
    if (beta >= 1.0) problems.add(fmt::format("optimizer.{} = {} never forgets; it must be below 1", name, beta));
  }
  if (optimizer.warmup_steps > job.train.steps) {
    problems.add(fmt::format("optimizer.warmup_steps = {} exceeds train.steps = {}; lower it", optimizer.warmup_steps,
                             job.train.steps));
  } else if (optimizer.schedule == ScheduleKind::wsd &&
             optimizer.decay_fraction * static_cast<double>(job.train.steps) >
                 static_cast<double>(job.train.steps - optimizer.warmup_steps)) {
    problems.add(
        fmt::format("optimizer.decay_fraction = {} and optimizer.warmup_steps = {} overlap in train.steps = {}"
                    "; lower one of them",
                    optimizer.decay_fraction, optimizer.warmup_steps, job.train.steps));
  }
}

void check_cluster(const JobSpec& job, Problems& problems) {
  const ClusterSpec& cluster = job.cluster;
  if (cluster.min_workers > cluster.workers) {
    problems.add(fmt::format("cluster.min_workers = {} exceeds cluster.workers = {}, so the job would never start",
                             cluster.min_workers, cluster.workers));
  }
  if (const auto device = parse_device(cluster.device); !device) {
    problems.add("cluster.device: " + device.error().message());
  } else if (const auto both = parse_device(cluster.device, cluster.precision); !both) {
    problems.add("cluster.precision: " + both.error().message());
  }
  if (cluster.precision == Precision::fp32 && !cluster.kernels.empty()) {
    problems.add("cluster.kernels are of bf16's products, but cluster.precision = \"fp32\"; leave one of them out");
  }
  if (const auto depths = pipeline_depths(cluster.layout); !depths) {
    problems.add("cluster.layout: " + depths.error().message());
  } else if (std::ranges::any_of(*depths, [&](std::uint32_t depth) { return depth > job.model.layers + 2; })) {
    problems.add(fmt::format("cluster.layout = \"{}\" has more stages in a pipeline than the model has blocks, {}",
                             cluster.layout, job.model.layers + 2));
  }
  if (std::uint64_t{cluster.heartbeat_ms} * kHeartbeatsPerLease > cluster.lease_ms) {
    problems.add(
        fmt::format("cluster.lease_ms = {} leaves no room for {} heartbeats of cluster.heartbeat_ms = {}; "
                    "raise the lease to {}",
                    cluster.lease_ms, kHeartbeatsPerLease, cluster.heartbeat_ms,
                    std::uint64_t{cluster.heartbeat_ms} * kHeartbeatsPerLease));
  }
  const auto ordered = [&problems](std::string_view lower, std::uint32_t low, std::string_view upper,
                                   std::uint32_t high, std::string_view why) {
    if (low < high) return;
    problems.add(fmt::format("cluster.{} = {} must be below cluster.{} = {}: {}", lower, low, upper, high, why));
  };
  ordered("suspect_grace_ms", cluster.suspect_grace_ms, "lease_ms", cluster.lease_ms,
          "evidence of death shortens a lease");
  ordered("lease_ms", cluster.lease_ms, "prepare_timeout_ms", cluster.prepare_timeout_ms,
          "a member must be able to lose its lease before a view change gives up on it");
  ordered("prepare_timeout_ms", cluster.prepare_timeout_ms, "stall_timeout_ms", cluster.stall_timeout_ms,
          "a view change must be able to end before it counts as stalled");
  ordered("lease_ms", cluster.lease_ms, "join_timeout_ms", cluster.join_timeout_ms,
          "a joiner must be able to be heard at all");
  ordered("lease_ms", cluster.lease_ms, "reconnect_timeout_ms", cluster.reconnect_timeout_ms,
          "a restarted coordinator grants a full lease before workers give up");
  const auto same = [&problems](std::string_view a, std::uint16_t port_a, std::string_view b, std::uint16_t port_b) {
    if (port_a == 0 || port_a != port_b) return;
    problems.add(fmt::format("cluster.{} and cluster.{} are both {}; change one", a, b, port_a));
  };
  same("control_port", cluster.control_port, "http_port", cluster.http_port);
  same("control_port", cluster.control_port, "telemetry_port", cluster.telemetry_port);
  same("http_port", cluster.http_port, "telemetry_port", cluster.telemetry_port);
  if (cluster.telemetry_port == 0) return;
  const std::uint32_t subscribers = cluster.telemetry_port + 1U;
  if (subscribers > 65535) {
    problems.add("cluster.telemetry_port is 65535, but subscribers get the port after it; choose a lower one");
  }
  for (const auto& [name, port] :
       {std::pair("control_port", cluster.control_port), std::pair("http_port", cluster.http_port)}) {
    if (port != subscribers) continue;
    problems.add(
        fmt::format("cluster.{} is {}, which telemetry's subscribers get, being the one after "
                    "cluster.telemetry_port; change one",
                    name, port));
  }
}

void check_security(const JobSpec& job, Problems& problems) {
  if (const Status listens = check_listen_form(job); !listens) problems.add(listens.error().message());
}

}  // namespace

std::string_view to_string(ModelFamily family) {
  return kModelFamilyNames.at(static_cast<std::size_t>(family));
}
std::string_view to_string(DataFormat format) {
  return kDataFormatNames.at(static_cast<std::size_t>(format));
}
std::string_view to_string(TokenizerKind kind) {
  return kTokenizerKindNames.at(static_cast<std::size_t>(kind));
}
std::string_view to_string(ScheduleKind kind) {
  return kScheduleKindNames.at(static_cast<std::size_t>(kind));
}
std::string_view to_string(NonfinitePolicy policy) {
  return kNonfinitePolicyNames.at(static_cast<std::size_t>(policy));
}

Result<std::vector<std::uint32_t>> pipeline_depths(std::string_view layout) {
  std::vector<std::uint32_t> depths;
  const char* at = layout.data();
  const char* const end = at + layout.size();
  while (at != end) {
    std::uint32_t depth = 0;
    const auto [rest, error] = std::from_chars(at, end, depth);
    const bool goes_on = rest != end;
    if (error != std::errc{} || depth == 0 || (goes_on && (*rest != '+' || rest + 1 == end))) {
      return Error(ErrorCode::invalid_argument,
                   fmt::format("\"{}\" is no layout: name the stages of each pipeline, like \"2+1\"", layout));
    }
    depths.push_back(depth);
    at = goes_on ? rest + 1 : rest;
  }
  return depths;
}

Hash128 job_hash(const JobSpec& job) {
  // Where the data lies doesn't matter; what it holds does, and content_hash says that.
  DataSpec data = job.data;
  data.path.clear();
  data.extensions.clear();
  data.tokenizer_file.clear();
  Encoder encoder;
  encoder(job.model, data, job.batch, job.optimizer, job.train);
  const ByteVector bytes = encoder.take();
  Hasher hasher;
  hasher.update(kHashDomain);
  hasher.update(std::as_bytes(std::span(bytes)));
  // Jobs that start from their seed keep the hash that they had before there was another start.
  if (job.pretrained.weights_hash != Hash128{}) hasher.update(job.pretrained.weights_hash);
  return hasher.digest();
}

Status validate(const JobSpec& job) {
  Problems problems;
  RangeChecker ranges(problems);
  visit_job_keys(ranges, job);
  // The rest computes with the values, which must be in range for that.
  PLANARIA_TRY(problems.status());
  check_model(job, problems);
  check_name(job, problems);
  check_data(job, problems);
  check_batch(job, problems);
  check_snapshot(job, problems);
  check_optimizer(job, problems);
  check_cluster(job, problems);
  check_security(job, problems);
  return problems.status();
}

}  // namespace planaria
