#include "proto/view_packing.hpp"

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <new>
#include <string>

namespace planaria {
namespace {

constexpr int kLevel = 3;
constexpr std::size_t kMaxRatio = 1024;  // of a record without a prefix; real ones are below 100
// Large enough for a prefix and a record of kMaxViewBytes each.
constexpr int kMaxWindowLog = 27;
static_assert((std::size_t{1} << kMaxWindowLog) >= 2 * kMaxViewBytes);

// Differences go around the end of 32 bits: what goes down comes up again.
struct StageColumns {
  std::vector<std::uint32_t> worker, block_begin, block_end, slot_step, slots;
  ByteVector recompute;  // flags

  static StageColumns of(const std::vector<StageAssignment>& stages) {
    StageColumns columns;
    std::uint32_t before = 0;
    for (const StageAssignment& stage : stages) {
      columns.worker.push_back(stage.worker.value());
      columns.block_begin.push_back(stage.work.blocks.begin);
      columns.block_end.push_back(stage.work.blocks.end);
      columns.slot_step.push_back(stage.work.slots.begin - before);
      columns.slots.push_back(stage.work.slots.end - stage.work.slots.begin);
      columns.recompute.push_back(stage.recompute ? 1 : 0);
      before = stage.work.slots.begin;
    }
    return columns;
  }

  [[nodiscard]] Result<std::vector<StageAssignment>> rows() const {
    const std::size_t count = worker.size();
    if (block_begin.size() != count || block_end.size() != count || slot_step.size() != count ||
        slots.size() != count || recompute.size() != count) {
      return Error(ErrorCode::corrupt, "a view's columns of stages differ in length");
    }
    std::vector<StageAssignment> stages;
    std::uint32_t begin = 0;
    for (std::size_t i = 0; i < count; ++i) {
      begin += slot_step[i];
      stages.push_back(
          {WorkerId(worker[i]), {{block_begin[i], block_end[i]}, {begin, begin + slots[i]}}, recompute[i] != 0});
    }
    return stages;
  }

  template <class V>
  void fields(V& v) {
    v(worker, block_begin, block_end, slot_step, slots, recompute);
  }
};

struct ShardColumns {
  std::vector<std::uint32_t> owner, tile_step, tiles;
  ByteVector ready;  // flags

  static ShardColumns of(const std::vector<ShardAssignment>& shards) {
    ShardColumns columns;
    std::uint32_t before = 0;
    for (const ShardAssignment& shard : shards) {
      columns.owner.push_back(shard.owner.value());
      columns.tile_step.push_back(shard.tiles.begin - before);
      columns.tiles.push_back(shard.tiles.end - shard.tiles.begin);
      columns.ready.push_back(shard.ready ? 1 : 0);
      before = shard.tiles.end;
    }
    return columns;
  }

  [[nodiscard]] Result<std::vector<ShardAssignment>> rows() const {
    const std::size_t count = owner.size();
    if (tile_step.size() != count || tiles.size() != count || ready.size() != count) {
      return Error(ErrorCode::corrupt, "a view's columns of shards differ in length");
    }
    std::vector<ShardAssignment> shards;
    std::uint32_t before = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint32_t begin = before + tile_step[i];
      shards.push_back({WorkerId(owner[i]), {begin, begin + tiles[i]}, ready[i] != 0});
      before = begin + tiles[i];
    }
    return shards;
  }

  template <class V>
  void fields(V& v) {
    v(owner, tile_step, tiles, ready);
  }
};

struct ViewColumns {
  ViewRecord rest;  // without stages and shards
  StageColumns stages, resume_stages;
  ShardColumns shards, resume_shards;

  static ViewColumns of(const ViewRecord& record) {
    ViewColumns columns{record, StageColumns::of(record.stages), StageColumns::of(record.resume.stages),
                        ShardColumns::of(record.shards), ShardColumns::of(record.resume.shards)};
    for (auto* stages : {&columns.rest.stages, &columns.rest.resume.stages}) stages->clear();
    for (auto* shards : {&columns.rest.shards, &columns.rest.resume.shards}) shards->clear();
    return columns;
  }

  Result<ViewRecord> record() && {
    ViewRecord record = std::move(rest);
    PLANARIA_ASSIGN(record.stages, stages.rows());
    PLANARIA_ASSIGN(record.shards, shards.rows());
    PLANARIA_ASSIGN(record.resume.stages, resume_stages.rows());
    PLANARIA_ASSIGN(record.resume.shards, resume_shards.rows());
    return record;
  }

  template <class V>
  void fields(V& v) {
    v(rest, stages, resume_stages, shards, resume_shards);
  }
};

ByteVector columns_of(const ViewRecord* record) {
  return record == nullptr ? ByteVector() : encode(ViewColumns::of(*record));
}

struct Free {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

Error corrupt(const std::string& why) {
  return {ErrorCode::corrupt, "a view can't be unpacked: " + why};
}

}  // namespace

PackedView pack_view(const ViewRecord& record, const ViewRecord* base) {
  const ByteVector columns = encode(ViewColumns::of(record));
  const ByteVector prefix = columns_of(base);
  const std::unique_ptr<ZSTD_CCtx, Free> context(ZSTD_createCCtx());
  if (context == nullptr) throw std::bad_alloc();
  const int window = std::clamp(static_cast<int>(std::bit_width(columns.size() + prefix.size())), 17, kMaxWindowLog);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, kLevel);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, window);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_enableLongDistanceMatching, base != nullptr ? 1 : 0);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1);
  ZSTD_CCtx_refPrefix(context.get(), prefix.data(), prefix.size());
  PackedView packed{record.view, base == nullptr ? ViewNumber(0) : base->view,
                    ByteVector(ZSTD_compressBound(columns.size()))};
  const std::size_t size =
      ZSTD_compress2(context.get(), packed.bytes.data(), packed.bytes.size(), columns.data(), columns.size());
  assert(ZSTD_isError(size) == 0);  // the bound is large enough, and nothing else can fail
  packed.bytes.resize(size);
  return packed;
}

Result<ViewRecord> unpack_view(const PackedView& packed, const ViewRecord* base) {
  if (packed.base == ViewNumber(0)) base = nullptr;
  if (packed.base != ViewNumber(0) && (base == nullptr || base->view != packed.base)) {
    return Error(ErrorCode::stale, "view " + std::to_string(packed.view.value()) + " is told as a change of view " +
                                       std::to_string(packed.base.value()) +
                                       ", which isn't the one that this worker is in");
  }
  const unsigned long long size = ZSTD_getFrameContentSize(packed.bytes.data(), packed.bytes.size());
  if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN) return corrupt("its size isn't told");
  const ByteVector prefix = columns_of(base);
  // What a sender claims costs no more memory than what it sent, or what is here, many times over.
  if (size > kMaxViewBytes || size > 2 * prefix.size() + kMaxRatio * packed.bytes.size()) {
    return corrupt("it claims to have " + std::to_string(size) + " bytes");
  }
  const std::unique_ptr<ZSTD_DCtx, Free> context(ZSTD_createDCtx());
  if (context == nullptr) throw std::bad_alloc();
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kMaxWindowLog);
  ZSTD_DCtx_refPrefix(context.get(), prefix.data(), prefix.size());
  ByteVector columns(size);
  const std::size_t got =
      ZSTD_decompressDCtx(context.get(), columns.data(), columns.size(), packed.bytes.data(), packed.bytes.size());
  if (ZSTD_isError(got) != 0) return corrupt(ZSTD_getErrorName(got));
  if (got != size) return corrupt("it ends early");
  PLANARIA_ASSIGN(ViewColumns decoded, decode<ViewColumns>(columns));
  if (decoded.rest.view != packed.view) return corrupt("it is another view");
  return std::move(decoded).record();
}

}  // namespace planaria
