// What a job is: model, data, optimizer, elasticity, seed. The TOML file of a user becomes one JobSpec; every process
// of the job agrees on it by its hash.
//
// `model`, `pretrained` and `data` (their bytes, not where they lie), `batch`, `optimizer` and `train` determine the
// bits and go into job_hash; all else says how the job is run.
//
// Thread contract: plain values.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/hash.hpp"
#include "common/result.hpp"
#include "proto/precision.hpp"

namespace planaria {

inline constexpr std::int64_t kMaxSteps = std::int64_t{1} << 40;

// The names of enumerators in job files, in their order.
enum class ModelFamily : std::uint8_t { gpt2, llama, count_ };
inline constexpr std::array<std::string_view, 2> kModelFamilyNames{"gpt2", "llama"};
[[nodiscard]] std::string_view to_string(ModelFamily family);

struct ModelSpec {
  ModelFamily family = ModelFamily::gpt2;
  std::uint32_t layers = 6;
  std::uint32_t heads = 6;
  std::uint32_t kv_heads = 6;  // llama only; equals heads for gpt2
  std::uint32_t width = 384;   // a multiple of heads
  std::uint32_t ffn_width = 1536;
  std::uint32_t vocab = 256;
  std::uint32_t context = 256;  // T: tokens of a sequence
  bool tied_embedding = true;   // head weight = token embedding
  double dropout = 0.0;         // on embedding output, attention output and MLP output (gpt2); 0 switches it off
  double rope_theta = 10000.0;  // llama
  double norm_epsilon = 1e-5;

  [[nodiscard]] std::uint32_t head_size() const { return width / heads; }
  // Rows of a layer's map to queries, keys and values, and of the one into its MLP (llama: gate and up).
  [[nodiscard]] std::uint64_t qkv_width() const {
    return (heads + 2ULL * (family == ModelFamily::gpt2 ? heads : kv_heads)) * head_size();
  }
  [[nodiscard]] std::uint64_t up_width() const { return (family == ModelFamily::gpt2 ? 1ULL : 2ULL) * ffn_width; }

  template <class V>
  void fields(V& v) {
    v(family, layers, heads, kv_heads, width, ffn_width, vocab, context, tied_embedding, dropout, rope_theta,
      norm_epsilon);
  }
};

// Weights that step 0 has, with zero moments, instead of those that the seed gives.
struct PretrainedSpec {
  std::string path;  // a directory in Hugging Face's naming; empty = none
  // Of the values, as `planaria export` tells it; filled when the directory is opened. A job file that gives it pins
  // the weights: others are refused.
  Hash128 weights_hash;

  template <class V>
  void fields(V& v) {
    v(path, weights_hash);
  }
};

enum class DataFormat : std::uint8_t { text, tokens_u16, count_ };
inline constexpr std::array<std::string_view, 2> kDataFormatNames{"text", "tokens_u16"};
[[nodiscard]] std::string_view to_string(DataFormat format);

enum class TokenizerKind : std::uint8_t { bytes, bpe, count_ };
inline constexpr std::array<std::string_view, 2> kTokenizerKindNames{"bytes", "bpe"};
[[nodiscard]] std::string_view to_string(TokenizerKind kind);

struct DataSpec {
  std::string path;        // file or directory; a directory's files are taken in name order
  std::string extensions;  // for a directory: comma-separated endings to take (".pod,.txt"); empty = all files
  DataFormat format = DataFormat::text;
  TokenizerKind tokenizer = TokenizerKind::bytes;
  std::string tokenizer_file;         // tokenizer.json for bpe
  double validation_fraction = 0.05;  // the tail of the token stream
  // Over the data's bytes and the tokenizer's file; filled when the data is opened. A job file that gives it pins the
  // data: opening others is refused.
  Hash128 content_hash;

  template <class V>
  void fields(V& v) {
    v(path, extensions, format, tokenizer, tokenizer_file, validation_fraction, content_hash);
  }
};

struct BatchSpec {
  std::uint32_t micro_batches = 32;  // M of a step; a multiple of slots
  std::uint32_t sequences = 1;       // B of a micro-batch
  std::uint32_t slots = 32;          // V, a power of two

  template <class V>
  void fields(V& v) {
    v(micro_batches, sequences, slots);
  }
};

enum class ScheduleKind : std::uint8_t { constant, cosine, wsd, count_ };
inline constexpr std::array<std::string_view, 3> kScheduleKindNames{"constant", "cosine", "wsd"};
[[nodiscard]] std::string_view to_string(ScheduleKind kind);

enum class NonfinitePolicy : std::uint8_t { skip, halt, count_ };
inline constexpr std::array<std::string_view, 2> kNonfinitePolicyNames{"skip", "halt"};
[[nodiscard]] std::string_view to_string(NonfinitePolicy policy);

struct OptimizerSpec {
  double learning_rate = 6e-4;
  double min_learning_rate = 6e-5;
  ScheduleKind schedule = ScheduleKind::cosine;
  std::uint64_t warmup_steps = 100;
  double decay_fraction = 0.2;  // wsd: the last part of the run that decays
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  // decoupled, on tensors of two or more dimensions
  double clip_norm = 1.0;     // global gradient norm; 0 = no clipping
  NonfinitePolicy nonfinite = NonfinitePolicy::skip;
  bool shard = false;  // each shard's state at one worker, else at all that compute with its block; the bits are alike

  // All that the bits depend on.
  template <class V>
  void fields(V& v) {
    v(learning_rate, min_learning_rate, schedule, warmup_steps, decay_fraction, beta1, beta2, epsilon, weight_decay,
      clip_norm, nonfinite);
  }
};

struct TrainSpec {
  std::uint64_t steps = 1000;  // total; the last one is followed by a final evaluation
  std::uint64_t seed = 1;
  std::uint32_t tile_elements = 65536;    // a power of two
  std::uint32_t evaluate_every = 50;      // steps; 0 = only at the end
  std::uint32_t evaluation_batches = 32;  // micro-batches of validation text of one evaluation

  template <class V>
  void fields(V& v) {
    v(steps, seed, tile_elements, evaluate_every, evaluation_batches);
  }
};

struct ClusterSpec {
  std::uint32_t workers = 3;                   // started by `run`, and awaited before the first step
  std::uint32_t min_workers = 1;               // below this the job waits
  std::uint32_t threads = 1;                   // compute threads of a worker
  std::string device = "cpu";                  // what a worker computes on (proto/device_choice.hpp)
  Precision precision = Precision::automatic;  // that it trains in; the numeric class tells which
  std::string kernels;  // a file of kernels that an earlier run chose; empty: the first worker chooses
  std::uint32_t heartbeat_ms = 100;
  std::uint32_t lease_ms = 1000;
  std::uint32_t suspect_grace_ms = 40;         // lease that is left after evidence of death, to answer a probe
  std::uint32_t prepare_timeout_ms = 2000;     // a member that doesn't report within this is excluded
  std::uint32_t stall_timeout_ms = 10000;      // no progress of any member: a new view
  std::uint32_t join_timeout_ms = 120000;      // awaiting the first members
  std::uint32_t reconnect_timeout_ms = 60000;  // a worker that finds no coordinator for this long at start gives up
  double rebalance_gain = 0.10;                // predicted gain that justifies another layout
  double worker_life_h = 10;                   // as expected, until losses tell: short lives make short pipelines
  std::string layout;                          // stages of each pipeline, "2+1"; empty: the planner chooses
  std::uint32_t memory_mb = 0;                 // that a worker may use; 0 = its share of the machine's
  std::string listen = "127.0.0.1";
  std::uint16_t control_port = 0;  // 0 = any free one
  std::uint16_t http_port = 0;
  std::uint16_t telemetry_port = 0;

  template <class V>
  void fields(V& v) {
    v(workers, min_workers, threads, device, precision, kernels, heartbeat_ms, lease_ms, suspect_grace_ms,
      prepare_timeout_ms, stall_timeout_ms, join_timeout_ms, reconnect_timeout_ms, rebalance_gain, worker_life_h,
      layout, memory_mb, listen, control_port, http_port, telemetry_port);
  }
  // Of so many workers together, as expected.
  [[nodiscard]] double losses_per_s(std::size_t of_workers) const {
    return static_cast<double>(of_workers) / (3600 * worker_life_h);
  }
};

struct CheckpointSpec {
  std::uint64_t every_steps = 100;  // 0 = only at the end
  std::uint32_t keep = 3;
  std::uint32_t final_retries =
      30;  // of the last step's, two seconds apart: until it is saved the result is in memory only

  template <class V>
  void fields(V& v) {
    v(every_steps, keep, final_retries);
  }
};

// What keepers hold of the state after each few steps, against the loss of hosts.
struct SnapshotSpec {
  std::uint64_t every_steps = 1;  // 0 = none
  std::uint32_t data = 3;         // k and m of a stripe's erasure code, each fragment at another host
  std::uint32_t parity = 1;
  double max_overhead = 0.01;       // part of the time that may be waited for them, or they get rarer; 0 = any
  bool durable = false;             // keepers save the states of checkpoint.every_steps, where they have all of them
  std::uint32_t disk_mb_per_s = 0;  // that each of them may write; 0 = as fast as the disk

  template <class V>
  void fields(V& v) {
    v(every_steps, data, parity, max_overhead, durable, disk_mb_per_s);
  }
};

struct MetricsSpec {
  bool jsonl = true;
  bool tensorboard = true;

  template <class V>
  void fields(V& v) {
    v(jsonl, tensorboard);
  }
};

struct SecuritySpec {
  bool insecure = false;                                // allow other addresses than loopback without the three below
  std::string join_token;                               // shared secret that a joiner shows
  std::string tls_certificate, tls_key, tls_authority;  // PEM files of the control plane

  template <class V>
  void fields(V& v) {
    v(insecure, join_token, tls_certificate, tls_key, tls_authority);
  }
};

struct IntegritySpec {
  std::uint32_t check_every = 10;  // steps between comparisons of the members' parameter hashes

  template <class V>
  void fields(V& v) {
    v(check_every);
  }
};

struct JobSpec {
  std::string name = "job";
  ModelSpec model;
  PretrainedSpec pretrained;
  DataSpec data;
  BatchSpec batch;
  OptimizerSpec optimizer;
  TrainSpec train;
  ClusterSpec cluster;
  CheckpointSpec checkpoint;
  SnapshotSpec snapshot;
  MetricsSpec metrics;
  SecuritySpec security;
  IntegritySpec integrity;

  // M, and the sequences of one step: M · B.
  [[nodiscard]] std::uint64_t sequences_per_step() const {
    return std::uint64_t{batch.micro_batches} * batch.sequences;
  }
  [[nodiscard]] std::uint64_t tokens_per_step() const { return sequences_per_step() * model.context; }
  [[nodiscard]] std::uint32_t micro_batches_per_slot() const { return batch.micro_batches / batch.slots; }
  // Values that cross from one block to the next with a micro-batch.
  [[nodiscard]] std::uint64_t boundary_elements() const {
    return std::uint64_t{batch.sequences} * model.context * model.width;
  }

  template <class V>
  void fields(V& v) {
    v(name, model, pretrained, data, batch, optimizer, train, cluster, checkpoint, snapshot, metrics, security,
      integrity);
  }
};

// The stages of each pipeline that cluster.layout names: "2+1" has one of two stages and one of one. Empty for "".
[[nodiscard]] Result<std::vector<std::uint32_t>> pipeline_depths(std::string_view layout);

// The hash over everything that determines the bits of the result: model, pretrained (weights_hash, when there is one),
// data (format, tokenizer kind, split and content_hash; not path, extensions or tokenizer_file), batch, optimizer and
// train. Precondition: data.content_hash is filled, and pretrained.weights_hash if there is a path.
[[nodiscard]] Hash128 job_hash(const JobSpec& job);

// Refuses values out of range (proto/job_keys.hpp) and values that contradict each other or can't work, naming keys,
// values and what to change: slots a power of two that divides micro_batches, width a multiple of heads, timeouts in
// order (3 heartbeats ≤ lease; suspect grace < lease < prepare < stall; lease < join, reconnect), and so on. One
// problem a line.
[[nodiscard]] Status validate(const JobSpec& job);

}  // namespace planaria
