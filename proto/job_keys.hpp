// The keys of a job file: one list, through which a job is read, written and checked.
//
// A visitor has section(name), key(name, value, range or names), path(name, value) and secret(name, value):
// ConfigReader fills a job, ConfigWriter writes it, validate() holds it against the ranges.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "common/config.hpp"
#include "proto/job_spec.hpp"
#include "proto/snapshot_layout.hpp"

namespace planaria {

// Job is JobSpec or const JobSpec.
template <class Visitor, class Job>
void visit_model_keys(Visitor& v, Job& job) {
  v.section("model");
  v.key("family", job.model.family, std::span<const std::string_view>(kModelFamilyNames));
  v.key("layers", job.model.layers, IntegerRange{1, 1024});
  v.key("heads", job.model.heads, IntegerRange{1, 1024});
  v.key("kv_heads", job.model.kv_heads, IntegerRange{1, 1024});
  v.key("width", job.model.width, IntegerRange{1, 65536});
  v.key("ffn_width", job.model.ffn_width, IntegerRange{1, 1 << 20});
  v.key("vocab", job.model.vocab, IntegerRange{2, 1 << 20});
  v.key("context", job.model.context, IntegerRange{2, 1 << 20});
  v.key("tied_embedding", job.model.tied_embedding);
  v.key("dropout", job.model.dropout, NumberRange{0.0, 0.9});
  v.key("rope_theta", job.model.rope_theta, NumberRange{1.0, 1e9});
  v.key("norm_epsilon", job.model.norm_epsilon, NumberRange{1e-12, 0.1});
  v.path("pretrained", job.pretrained.path);
  v.key("pretrained_hash", job.pretrained.weights_hash);
}

template <class Visitor, class Job>
void visit_job_keys(Visitor& v, Job& job) {
  using Names = std::span<const std::string_view>;
  const IntegerRange any_u32{0, std::numeric_limits<std::uint32_t>::max()};
  const IntegerRange milliseconds{1, 86'400'000};
  const IntegerRange port{0, 65535};
  const NumberRange fraction{0.0, 1.0};

  v.section("");
  v.key("name", job.name);

  visit_model_keys(v, job);

  v.section("data");
  v.path("path", job.data.path);
  v.key("extensions", job.data.extensions);
  v.key("format", job.data.format, Names(kDataFormatNames));
  v.key("tokenizer", job.data.tokenizer, Names(kTokenizerKindNames));
  v.path("tokenizer_file", job.data.tokenizer_file);
  v.key("validation_fraction", job.data.validation_fraction, NumberRange{1e-6, 0.5});
  v.key("content_hash", job.data.content_hash);

  v.section("batch");
  v.key("micro_batches", job.batch.micro_batches, IntegerRange{1, 1 << 20});
  v.key("sequences", job.batch.sequences, IntegerRange{1, 1 << 16});
  v.key("slots", job.batch.slots, IntegerRange{1, 1 << 16});

  v.section("optimizer");
  v.key("learning_rate", job.optimizer.learning_rate, NumberRange{0.0, 10.0});
  v.key("min_learning_rate", job.optimizer.min_learning_rate, NumberRange{0.0, 10.0});
  v.key("schedule", job.optimizer.schedule, Names(kScheduleKindNames));
  v.key("warmup_steps", job.optimizer.warmup_steps, IntegerRange{0, kMaxSteps});
  v.key("decay_fraction", job.optimizer.decay_fraction, fraction);
  v.key("beta1", job.optimizer.beta1, fraction);
  v.key("beta2", job.optimizer.beta2, fraction);
  v.key("epsilon", job.optimizer.epsilon, NumberRange{1e-15, 1.0});
  v.key("weight_decay", job.optimizer.weight_decay, NumberRange{0.0, 10.0});
  v.key("clip_norm", job.optimizer.clip_norm, NumberRange{0.0, 1e9});
  v.key("nonfinite", job.optimizer.nonfinite, Names(kNonfinitePolicyNames));
  v.key("shard", job.optimizer.shard);

  v.section("train");
  v.key("steps", job.train.steps, IntegerRange{1, kMaxSteps});
  v.key("seed", job.train.seed, IntegerRange{});
  v.key("tile_elements", job.train.tile_elements, IntegerRange{64, 1 << 26});
  v.key("evaluate_every", job.train.evaluate_every, any_u32);
  v.key("evaluation_batches", job.train.evaluation_batches, IntegerRange{1, 1 << 20});

  v.section("cluster");
  v.key("workers", job.cluster.workers, IntegerRange{1, 1 << 16});
  v.key("min_workers", job.cluster.min_workers, IntegerRange{1, 1 << 16});
  v.key("threads", job.cluster.threads, IntegerRange{1, 1024});
  v.key("device", job.cluster.device);
  v.key("precision", job.cluster.precision, Names(kPrecisionNames));
  v.path("kernels", job.cluster.kernels);
  v.key("heartbeat_ms", job.cluster.heartbeat_ms, milliseconds);
  v.key("lease_ms", job.cluster.lease_ms, milliseconds);
  v.key("suspect_grace_ms", job.cluster.suspect_grace_ms, milliseconds);
  v.key("prepare_timeout_ms", job.cluster.prepare_timeout_ms, milliseconds);
  v.key("stall_timeout_ms", job.cluster.stall_timeout_ms, milliseconds);
  v.key("join_timeout_ms", job.cluster.join_timeout_ms, milliseconds);
  v.key("reconnect_timeout_ms", job.cluster.reconnect_timeout_ms, milliseconds);
  v.key("rebalance_gain", job.cluster.rebalance_gain, fraction);
  v.key("worker_life_h", job.cluster.worker_life_h, NumberRange{1e-3, 1e6});
  v.key("layout", job.cluster.layout);
  v.key("memory_mb", job.cluster.memory_mb, any_u32);
  v.key("listen", job.cluster.listen);
  v.key("control_port", job.cluster.control_port, port);
  v.key("http_port", job.cluster.http_port, port);
  v.key("telemetry_port", job.cluster.telemetry_port, port);

  v.section("checkpoint");
  v.key("every_steps", job.checkpoint.every_steps, IntegerRange{0, kMaxSteps});
  v.key("keep", job.checkpoint.keep, IntegerRange{1, 1 << 20});
  v.key("final_retries", job.checkpoint.final_retries, IntegerRange{0, 1 << 20});

  v.section("snapshot");
  v.key("every_steps", job.snapshot.every_steps, IntegerRange{0, kMaxSteps});
  v.key("data", job.snapshot.data, IntegerRange{1, kMaxFragments});
  v.key("parity", job.snapshot.parity, IntegerRange{0, kMaxFragments - 1});
  v.key("max_overhead", job.snapshot.max_overhead, fraction);
  v.key("durable", job.snapshot.durable);
  v.key("disk_mb_per_s", job.snapshot.disk_mb_per_s, any_u32);

  v.section("metrics");
  v.key("jsonl", job.metrics.jsonl);
  v.key("tensorboard", job.metrics.tensorboard);

  v.section("security");
  v.key("insecure", job.security.insecure);
  v.secret("join_token", job.security.join_token);
  v.path("tls_certificate", job.security.tls_certificate);
  v.path("tls_key", job.security.tls_key);
  v.path("tls_authority", job.security.tls_authority);

  v.section("integrity");
  v.key("check_every", job.integrity.check_every, any_u32);
}

}  // namespace planaria
