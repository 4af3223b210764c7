#include "worker/keeper/keeper_executor.hpp"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

#include "common/overloaded.hpp"
#include "storage/fragment_rebuild.hpp"
#include "storage/snapshot_store.hpp"
#include "worker/keeper/copy_link.hpp"
#include "worker/model/schedule.hpp"
#include "worker/model/update.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {
namespace {

// Of a data fragment in one message: small enough that encoding begins while more is on its way.
constexpr std::uint64_t kPartBytes = 4U << 20;

std::span<const std::byte> bytes_of(const PayloadRef& payload) {
  return std::as_bytes(payload_values(payload));
}

}  // namespace

class KeeperExecutor::Impl {
 public:
  Impl(const JobSpec& job, std::shared_ptr<SnapshotMemory> memory, ExecutorHooks hooks,
       std::optional<SaverOptions> durable)
      : job_(job),
        map_(job.model, job.train.tile_elements),
        memory_(memory),
        hooks_(std::move(hooks)),
        store_(map_, std::move(memory)) {
    if (durable) saver_ = std::make_unique<SnapshotSaver>(map_, std::move(*durable), hooks_.completed);
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void post(WorkerAction action) {
    {
      const std::scoped_lock lock(mutex_);
      queue_.push_back(std::move(action));
    }
    wake_.notify_one();
  }

  std::optional<std::vector<ConstSlice>> state_payload(const StateTiles& meta) {
    const std::scoped_lock lock(store_mutex_);
    auto values = read([&] { return store_.state(meta.stamp, meta.tiles, meta.parameters_only); }, meta.stamp, {});
    if (!values) return std::nullopt;
    return data_slices(meta, std::move(*values));
  }

  Result<std::vector<StoredTiles>> find(Step stamp, TileRange tiles) const {
    const std::scoped_lock lock(store_mutex_);
    return store_.find(stamp, tiles, SealedTiles::kMostTiles);
  }

  Status damage(FragmentDamage how) {
    const std::scoped_lock lock(store_mutex_);
    if (!store_.damage(how)) damage_to_come_ = how;
    return ok_status();
  }

  const StateMap& map() const { return map_; }

  KeeperCounters counters() const {
    const std::scoped_lock lock(mutex_);
    KeeperCounters counters = counters_;
    counters.memory_bytes = memory_->used_bytes();
    counters.bound_bytes = memory_->bound_bytes();
    return counters;
  }

 private:
  void run() {
    while (true) {
      WorkerAction action;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (stopping_) return;
        action = std::move(queue_.front());
        queue_.pop_front();
      }
      const std::scoped_lock lock(store_mutex_);
      carry_out(action);
      if (damage_to_come_ && store_.damage(*damage_to_come_)) damage_to_come_.reset();
    }
  }

  void carry_out(const WorkerAction& action) {
    using namespace worker_action;
    std::visit(
        Overloaded{
            [&](const StoreState& a) { store_state(a); }, [&](const RebuildState& a) { rebuild(a); },
            [&](const DropState& a) { store_.drop_before(a.before); },
            [&](const RevertState& a) { store_.keep_only(a.stamp); },
            [&](const AddFragmentPart& a) {
              stored(a.part, store_.add_part(a.layout->stripes[a.part.stripe], a.part, bytes_of(a.payload), a.hashes));
            },
            [&](const StoreFragmentPart& a) {
              stored(a.part,
                     store_.store_part(a.layout->stripes[a.part.stripe], a.part, bytes_of(a.payload), a.hashes));
            },
            [&](const KeepFragments& a) { store_.keep_fragments(a.whole, a.building); },
            [&](const SaveSnapshot& a) { save(a); }, [&](const SendFragment& a) { send_fragment(a); },
            [&](const SendParity& a) { send_parity(a); }, [&](const SendFragmentReply& a) { reply(a); },
            [&](const SendState& a) { send_state(a); }, [&](const ApplyUpdate& a) { tell_norm(a); },
            // It computes nothing, holds no whole blocks but by chance, and loads no checkpoints.
            [&](const HashState& a) {
              hooks_.completed(worker_event::StateHashed{a.stamp, {}});
            },
            [&](const HashWeights& a) {
              hooks_.completed(worker_event::WeightsHashed{a.step, {}});
            },
            [&](const ListCheckpoints&) { hooks_.completed(worker_event::CheckpointsListed{}); }, [](const auto&) {}},
        action);
  }

  // What doesn't match its hash isn't in the store any more: the core must not offer it.
  template <class Read>
  std::invoke_result_t<Read> read(Read read, Step stamp, const std::vector<HeldFragment>& parity) {
    auto result = read();
    if (result || result.error().code() != ErrorCode::corrupt) return result;
    const TileSet gone = store_.take_damaged(stamp);
    {
      const std::scoped_lock lock(mutex_);
      counters_.damaged_tiles += gone.size();
      counters_.damaged_parities += parity.size();
    }
    hooks_.completed(worker_event::SnapshotDamaged{stamp, gone.runs(), parity, result.error().message()});
    return result;
  }

  void store_state(const worker_action::StoreState& action) {
    Status done = ok_status();
    if (const auto* sealed = dynamic_cast<const SealedPayload*>(action.payload.get())) {
      done = adopt(action, sealed->copy);
    } else {
      done = store_.store(action.stamp, action.tiles, payload_values(action.payload));
    }
    hooks_.completed(worker_event::StateStored{
        .stamp = action.stamp, .tiles = {action.tiles}, .ok = done.ok(), .detail = done ? "" : done.error().message()});
  }

  // A run of what a worker sealed at once.
  Status adopt(const worker_action::StoreState& action, const SealedCopy& copy) {
    std::uint64_t offset = copy.offset;
    std::size_t index = 0;
    for (const TileRange run : copy.tiles) {
      for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
        if (tile == action.tiles.begin) {
          const std::size_t count = action.tiles.end - action.tiles.begin;
          if (index + count > copy.hashes.size()) break;
          return store_.adopt(action.stamp, std::span(&action.tiles, 1), copy.memory, offset,
                              std::span(copy.hashes).subspan(index, count));
        }
        offset += kTensorsOfState * map_.bytes({tile, tile + 1});
        ++index;
      }
    }
    return Error(ErrorCode::corrupt, "a copy that doesn't have the tiles or hashes that it names");
  }

  void rebuild(const worker_action::RebuildState& action) {
    const Step stamp = action.snapshot.step;
    const auto made = make_again(action);
    const Status done =
        made ? store_.store_bytes(stamp, action.tiles, made->bytes, made->hashes) : Status(made.error());
    worker_event::StateStored stored{.stamp = stamp, .tiles = action.tiles, .ok = done.ok()};
    if (!done) {
      stored.detail = done.error().message();
      if (made && done.error().code() == ErrorCode::corrupt) stored.blamed = action.hashed_by;
    }
    hooks_.completed(std::move(stored));
  }

  struct MadeAgain {
    std::vector<std::byte> bytes;
    std::vector<Hash128> hashes;  // that they should have
  };
  Result<MadeAgain> make_again(const worker_action::RebuildState& action) {
    std::vector<RebuildInput> inputs;
    std::vector<ConstSlice> own;
    std::vector<Hash128> hashes = action.hashes;
    for (const auto& input : action.inputs) {
      RebuildInput& given = inputs.emplace_back(RebuildInput{input.fragment, {}});
      if (input.payload != nullptr) {
        given.parts.push_back(bytes_of(input.payload));
      } else if (input.bytes > 0) {
        const FragmentPart part{action.snapshot, action.stripe, input.fragment, action.offset, input.bytes};
        const bool is_data = input.fragment < action.layout.data;
        const auto& tiles = action.layout.fragments[input.fragment].tiles;
        PLANARIA_ASSIGN(auto slices, is_data ? data_of(part, tiles) : parity_of(part, action.layout));
        if (!is_data && hashes.empty()) {
          PLANARIA_ASSIGN(hashes, store_.data_hashes(part, action.fragment));
        }
        for (ConstSlice& slice : slices) {
          given.parts.push_back(slice.bytes);
          own.push_back(std::move(slice));
        }
      }
    }
    PLANARIA_ASSIGN(auto made, rebuild_fragment(action.layout, action.fragment, action.bytes, inputs));
    return MadeAgain{std::move(made), std::move(hashes)};
  }

  Result<std::vector<ConstSlice>> data_of(const FragmentPart& part, std::span<const TileRange> tiles) {
    return read([&] { return store_.fragment(part.snapshot.step, tiles, part.offset, part.bytes); }, part.snapshot.step,
                {});
  }
  Result<std::vector<ConstSlice>> parity_of(const FragmentPart& part, const Stripe& layout) {
    return read([&] { return store_.parity(part); }, part.snapshot.step,
                {{part.snapshot, part.stripe, part.fragment, layout}});
  }

  void stored(const FragmentPart& part, const Result<bool>& result) {
    hooks_.completed(worker_event::FragmentStored{part, result.ok(), result ? "" : result.error().message()});
  }

  void send(WorkerId to, ViewNumber view, const DataMeta& meta, std::vector<ConstSlice> values) {
    {
      const std::scoped_lock lock(mutex_);
      for (const ConstSlice& slice : values) counters_.sent_bytes += slice.bytes.size();
    }
    hooks_.send(to, view, data_slices(meta, std::move(values)));
  }

  void send_state(const worker_action::SendState& a) {
    StateTiles meta = a.meta;
    auto values = read([&] { return store_.state(meta.stamp, meta.tiles, meta.parameters_only); }, meta.stamp, {});
    meta.available = values.ok();
    send(a.to, a.view, meta, values ? std::move(*values) : std::vector<ConstSlice>());
  }

  // A part that can't be read isn't sent: the stripe waits, the core hears why, and a new view begins the snapshot
  // anew.
  void send_fragment(const worker_action::SendFragment& a) {
    const StripeFragment& fragment = a.layout->stripes[a.stripe].fragments[a.fragment];
    const std::uint64_t all = fragment_bytes(map_, fragment);
    for (std::uint64_t offset = 0; offset < all; offset += kPartBytes) {
      const FragmentPart part{a.snapshot, a.stripe, a.fragment, offset, std::min(kPartBytes, all - offset)};
      auto values = data_of(part, fragment.tiles);
      auto hashes = store_.hashes(a.snapshot.step, fragment.tiles, offset, part.bytes);
      if (!values || !hashes) return;
      send(a.to, a.view, FragmentData{part, std::move(*hashes)}, std::move(*values));
    }
  }

  void send_parity(const worker_action::SendParity& a) {
    auto values = store_.sum(a.part);
    auto hashes = store_.data_hashes(a.part);
    if (values && hashes) send(a.to, a.view, FragmentData{a.part, std::move(*hashes)}, std::move(*values));
  }

  void reply(const worker_action::SendFragmentReply& a) {
    const FragmentPart& part = a.meta.part;
    const bool is_parity = a.tiles.empty();
    auto values = is_parity ? parity_of(part, a.layout) : data_of(part, a.tiles);
    auto hashes = is_parity ? store_.data_hashes(part, a.lost) : std::vector<Hash128>();
    if (values && hashes) return send(a.to, a.view, FragmentReply{part, true, std::move(*hashes)}, std::move(*values));
    send(a.to, a.view, FragmentReply{part, false, {}}, {});
  }

  void save(const worker_action::SaveSnapshot& action) {
    SnapshotToSave wanted{action.snapshot, action.numeric_class, {}};
    for (const TileRange run : action.tiles) {
      auto found = store_.find(action.snapshot.step, run, SIZE_MAX);
      if (!saver_ || !found) {
        const std::string why = found ? "this keeper has no directory for it" : found.error().message();
        hooks_.completed(worker_event::SnapshotWritten{action.snapshot, false, 0, why});
        return;
      }
      std::ranges::move(*found, std::back_inserter(wanted.tiles));
    }
    saver_->save(std::move(wanted));
  }

  void tell_norm(const worker_action::ApplyUpdate& action) {
    const ClipDecision clip =
        clip_decision(sum_of_tiles(map_, action.sums), job_.tokens_per_step(), job_.optimizer.clip_norm);
    hooks_.completed(
        worker_event::UpdateDone{action.step, learning_rate(job_.optimizer, job_.train.steps, action.step), clip.norm});
  }

  const JobSpec job_;
  const StateMap map_;
  const std::shared_ptr<SnapshotMemory> memory_;
  const ExecutorHooks hooks_;

  mutable std::mutex store_mutex_;
  SnapshotStore store_;
  std::optional<FragmentDamage> damage_to_come_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<WorkerAction> queue_;
  KeeperCounters counters_;
  bool stopping_ = false;
  std::unique_ptr<SnapshotSaver> saver_;  // null where nothing is saved
  std::thread thread_;
};

KeeperExecutor::KeeperExecutor(const JobSpec& job, std::shared_ptr<SnapshotMemory> memory, ExecutorHooks hooks,
                               std::optional<SaverOptions> durable)
    : impl_(std::make_unique<Impl>(job, std::move(memory), std::move(hooks), std::move(durable))) {}
KeeperExecutor::~KeeperExecutor() = default;

void KeeperExecutor::post(WorkerAction action, ViewNumber) {
  impl_->post(std::move(action));
}
std::optional<std::vector<ConstSlice>> KeeperExecutor::state_payload(const StateTiles& meta) {
  return impl_->state_payload(meta);
}
ExecutorCounters KeeperExecutor::counters() const {
  return {};
}
const StateMap& KeeperExecutor::map() const {
  return impl_->map();
}
Result<std::vector<StoredTiles>> KeeperExecutor::find(Step stamp, TileRange tiles) const {
  return impl_->find(stamp, tiles);
}
KeeperCounters KeeperExecutor::keeper_counters() const {
  return impl_->counters();
}
Status KeeperExecutor::damage(FragmentDamage how) {
  return impl_->damage(how);
}

}  // namespace planaria
