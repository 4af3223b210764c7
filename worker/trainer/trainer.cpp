#include "worker/trainer/trainer.hpp"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>

#include "common/cpu_quota.hpp"
#include "common/log.hpp"
#include "common/overloaded.hpp"
#include "worker/trainer/step_executor.hpp"

namespace planaria {

class Trainer::Impl {
 public:
  Impl(std::unique_ptr<StepExecutor> executor, TrainerHooks hooks, std::uint32_t per_slot)
      : executor_(std::move(executor)), hooks_(std::move(hooks)), per_slot_(per_slot) {}

  Status start() {
    std::future<Status> owned = owned_.get_future();
    thread_ = std::thread([this] { run(); });
    return owned.get();
  }

  void post(WorkerAction action, ViewNumber view) {
    {
      const std::scoped_lock lock(mutex_);
      if (stopping_) return;
      queue_.push_back({std::move(action), view});
    }
    wake_.notify_one();
  }

  void stop() {
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
      queue_.clear();
    }
    wake_.notify_one();
    if (thread_.joinable()) {
      thread_.join();
      executor_->finish_checkpoints();
    }
  }

  void set_ledger(std::unique_ptr<Ledger> ledger) {
    const std::scoped_lock lock(mutex_);
    new_ledger_ = std::move(ledger);
  }
  void poison(Step step) {
    const std::scoped_lock lock(mutex_);
    poisoned_ = step;
  }

  StepExecutor& executor() { return *executor_; }
  std::atomic<double> speed{1.0};
  ByteVector kernels;

  [[nodiscard]] ExecutorCounters counters() const {
    return {.micro_batches = micro_batches_.load(std::memory_order_relaxed),
            .recomputed = recomputed_.load(std::memory_order_relaxed),
            .computing = Duration(computing_ns_.load(std::memory_order_relaxed)),
            .waiting = Duration(waiting_ns_.load(std::memory_order_relaxed)),
            .snapshots = Duration(snapshots_ns_.load(std::memory_order_relaxed)),
            .torn_leases = executor_->torn_leases(),
            .buffer_bytes = executor_->buffer_bytes()};
  }

 private:
  struct Item {
    WorkerAction action;
    ViewNumber view;
  };

  void run() {
    Status owned = executor_->own_device();
    const bool works = owned.ok();
    owned_.set_value(std::move(owned));
    while (works) {
      std::optional<Item> item;
      {
        std::unique_lock lock(mutex_);
        const bool has_waiting = executor_->micro_batches().has_waiting();
        const Instant idle_since = clock_.now();
        wake_.wait(lock, [&] { return stopping_ || !queue_.empty() || has_waiting; });
        idle_ += clock_.now() - idle_since;
        if (stopping_) return;
        if (!queue_.empty()) {
          item = std::move(queue_.front());
          queue_.pop_front();
        }
        if (new_ledger_) ledger_ = std::move(new_ledger_);
      }
      const Status done =
          item ? carry_out(*item) : computing([&] { return executor_->micro_batches().finish_oldest(); });
      if (done) continue;
      {
        const std::scoped_lock lock(mutex_);
        stopping_ = true;
        queue_.clear();
      }
      hooks_.failed(done.error());
      return;
    }
  }

  Status completed(Result<WorkerEvent> event) {
    if (!event) return event.error();
    hooks_.completed(std::move(event).value());
    return ok_status();
  }

  Status send(WorkerId to, ViewNumber view, Result<std::vector<ConstSlice>> payload) {
    if (!payload) return payload.error();
    hooks_.send(to, view, std::move(payload).value());
    return ok_status();
  }

  Status carry_out(const Item& item) {
    using namespace worker_action;
    StepExecutor& x = *executor_;
    return std::visit(
        Overloaded{
            [&](const ComputeMicroBatch& a) { return compute(a, item); },
            [&](const Rehearse& a) { return completed(x.rehearse(a)); },
            [&](const FoldNodes& a) { return beside([&] { return x.micro_batches().fold(a); }); },
            [&](const ReduceShards& a) { return after_waiting([&] { return completed(x.reduce(a)); }); },
            [&](const StoreReduced& a) { return beside([&] { return x.store_reduced(a); }); },
            [&](const MeasureGradient& a) { return beside([&] { return completed(x.measure(a)); }); },
            [&](const ApplyUpdate& a) { return update(a); },
            [&](const StoreState& a) { return completed(x.store_state(a)); },
            [&](const StoreParameters& a) { return completed(x.store_parameters(a)); },
            [&](const RebuildState& a) { return completed(x.rebuild_state(a)); },
            [&](const SnapshotState& a) { return snapshot(a); },
            [&](const CopyTied& a) { return x.copy_tied(a); },
            [&](const InitializeState& a) { return completed(x.initialize(a)); },
            [&](const LoadCheckpoint& a) { return completed(x.load_checkpoint(a)); },
            [&](const DropState& a) {
              x.drop_state(a.before);
              return ok_status();
            },
            [&](const RevertState& a) {
              x.revert_state(a.stamp);
              return ok_status();
            },
            [&](const ListCheckpoints&) { return completed(x.list_checkpoints()); },
            [&](const HashState& a) { return completed(x.hash_state(a)); },
            [&](const HashWeights& a) { return completed(x.hash_weights(a.step)); },
            [&](const BeginCheckpoint& a) { return x.begin_checkpoint(a); },
            [&](const AddToCheckpoint& a) { return x.add_to_checkpoint(a); },
            [&](const WriteCheckpoint& a) {
              if (auto failed = x.write_checkpoint(a)) hooks_.completed(std::move(*failed));
              return ok_status();
            },
            [&](const ReleaseStep& a) {
              x.release(a.step);
              return ok_status();
            },
            [&](const KeepStep& a) { return after_waiting([&] { return x.keep(a.step); }); },
            [&](const ReturnToStep& a) { return x.return_to(a.step); },
            [&](const SendPiece& a) {
              return after_waiting([&] { return send(a.to, a.view, x.piece_payload(a.meta)); });
            },
            [&](const SendReduced& a) { return beside([&] { return send(a.to, a.view, x.reduced_payload(a.meta)); }); },
            [&](const SendParameters& a) {
              return beside([&] { return send(a.to, a.view, x.parameters_payload(a.meta)); });
            },
            [&](const SendBoundary& a) { return send(a.to, a.view, x.boundary_payload(a.meta)); },
            [&](const SendFragmentReply& a) { return send(a.to, a.view, x.fragment_payload(a)); },
            [](const auto&) { return ok_status(); }},
        item.action);
  }

  Status snapshot(const worker_action::SnapshotState& action) {
    const Instant began = clock_.now();
    PLANARIA_ASSIGN(StateCopy copy, executor_->state_copy(action));
    if (hooks_.snapshot) {
      hooks_.snapshot(std::move(copy));
    } else {
      hooks_.completed(worker_event::SnapshotCopyFailed{action.view, action.stamp, action.tiles});
    }
    snapshots_ns_.fetch_add((clock_.now() - began).count(), std::memory_order_relaxed);
    return ok_status();
  }

  // Work of the step that grows with the model and the members, not with the micro-batches.
  template <class Work>
  Status beside(Work work) {
    const Instant began = clock_.now();
    const Status done = work();
    beside_ += clock_.now() - began;
    return done;
  }

  // The same, of sums that micro-batches may still be behind with.
  template <class Work>
  Status after_waiting(Work work) {
    PLANARIA_TRY(computing([&] { return executor_->micro_batches().finish_waiting(); }));
    return beside(work);
  }

  // Work of micro-batches.
  template <class Work>
  std::invoke_result_t<Work> computing(Work work) {
    const Instant began = clock_.now();
    quota_.begin();
    auto done = work();
    const Duration spent = quota_.spent();
    at_quota_ += quota_.granted_in(spent);
    computing_spent_ += spent;
    computing_ns_.fetch_add((clock_.now() - began).count(), std::memory_order_relaxed);
    return done;
  }

  Status update(const worker_action::ApplyUpdate& action) {
    const Instant began = clock_.now();
    auto event = executor_->update(action);
    if (!event) return event.error();
    const Duration took = std::exchange(beside_, Duration{}) + (clock_.now() - began);
    // The network's thread works for the exchange, too; without a limit it has a processor of its own.
    const Duration spent = step_timer_.spent() - std::exchange(computing_spent_, Duration{});
    step_timer_.begin();
    std::get<worker_event::UpdateDone>(*event).beside = std::max(took, quota_.granted_in(spent));
    hooks_.completed(std::move(event).value());
    return ok_status();
  }

  Status compute(const worker_action::ComputeMicroBatch& action, const Item& item) {
    const bool training = action.item.position < per_slot_;
    const Duration idle = std::exchange(idle_, Duration{});
    const auto now = std::tuple(item.view, action.step, action.attempt);
    if (std::exchange(computing_for_, now) == now) waiting_ns_.fetch_add(idle.count(), std::memory_order_relaxed);
    if (training && hooks_.entered && entered_forward_ != action.step) {
      entered_forward_ = action.step;
      hooks_.entered(action.step, Phase::forward);
    }
    bool poisoned = false;
    if (training && action.pass != Pass::forward) {
      const std::scoped_lock lock(mutex_);
      poisoned = poisoned_ == action.step;
      if (poisoned) poisoned_.reset();
    }
    std::function<void()> backward_begins;
    if (training && hooks_.entered && action.pass != Pass::forward && entered_backward_ != action.step) {
      entered_backward_ = action.step;
      backward_begins = [&] { hooks_.entered(action.step, Phase::backward); };
    }
    auto event = computing([&] {
      auto computed = executor_->compute(action, poisoned, backward_begins);
      if (computed && training) slow_down(std::get<worker_event::MicroBatchDone>(*computed));
      return computed;
    });
    const Duration at_quota = std::exchange(at_quota_, Duration{});
    if (!event) return event.error();
    if (training) {
      auto& done = std::get<worker_event::MicroBatchDone>(*event);
      done.at_quota = at_quota;
      if (done.pass != Pass::forward) record(action, item.view);
    }
    hooks_.completed(std::move(event).value());
    return ok_status();
  }

  void slow_down(worker_event::MicroBatchDone& done) {
    const double fraction = speed.load(std::memory_order_relaxed);
    if (fraction >= 1.0) return;
    const auto stretched = [&](Duration took) {
      return Duration(static_cast<std::int64_t>(static_cast<double>(took.count()) / fraction));
    };
    const Duration pause = stretched(done.took) - done.took;
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, pause, [&] { return stopping_; });
    done.took += pause;
    for (Duration& took : done.block_took) took = stretched(took);
  }

  void record(const worker_action::ComputeMicroBatch& action, ViewNumber view) {
    micro_batches_.fetch_add(1, std::memory_order_relaxed);
    if (action.recompute) recomputed_.fetch_add(1, std::memory_order_relaxed);
    if (!ledger_) return;
    const Status written =
        ledger_->append({.step = action.step,
                         .micro_batch = MicroBatchIndex(action.item.slot * per_slot_ + action.item.position),
                         .blocks = action.work.blocks,
                         .attempt = action.attempt,
                         .view = view,
                         .recompute = action.recompute,
                         .at = clock_.now()});
    if (!written && !ledger_failing_) {
      Log("trainer").warning("training goes on, but the ledger lacks what is computed now",
                             {{"why", written.error().message()}});
    }
    ledger_failing_ = !written;
  }

  const std::unique_ptr<StepExecutor> executor_;
  const TrainerHooks hooks_;
  const std::uint32_t per_slot_;
  const SteadyClock clock_;

  // The trainer thread's.
  std::unique_ptr<Ledger> ledger_;
  bool ledger_failing_ = false;
  Step entered_forward_, entered_backward_;
  std::tuple<ViewNumber, Step, std::uint32_t> computing_for_;  // attempt of the last micro-batch
  Duration idle_{};                                            // since then
  Duration beside_{};
  QuotaTimer quota_;
  Duration at_quota_{};         // of what was computed since the last micro-batch was told
  QuotaTimer step_timer_;       // since the last update
  Duration computing_spent_{};  // likewise, by micro-batches

  std::atomic<std::uint64_t> micro_batches_{0};
  std::atomic<std::uint64_t> recomputed_{0};
  std::atomic<std::int64_t> computing_ns_{0};
  std::atomic<std::int64_t> waiting_ns_{0};
  std::atomic<std::int64_t> snapshots_ns_{0};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_;
  std::unique_ptr<Ledger> new_ledger_;
  std::optional<Step> poisoned_;
  bool stopping_ = false;
  std::promise<Status> owned_;  // whether the thread has the device
  std::thread thread_;
};

Result<std::unique_ptr<Trainer>> Trainer::start(TrainerOptions options, TrainerHooks hooks) {
  const std::uint32_t per_slot = options.job.micro_batches_per_slot();
  const std::shared_ptr<Device> device = options.device;
  PLANARIA_ASSIGN(auto executor, StepExecutor::create(std::move(options), hooks.completed));
  PLANARIA_ASSIGN(const std::vector<std::byte> kernels, device->kernel_choices());
  auto impl = std::make_unique<Impl>(std::move(executor), std::move(hooks), per_slot);
  const auto* const first = reinterpret_cast<const std::uint8_t*>(kernels.data());
  impl->kernels.assign(first, first + kernels.size());
  PLANARIA_TRY(impl->start());
  return std::unique_ptr<Trainer>(new Trainer(std::move(impl)));
}

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::~Trainer() {
  stop();
}

void Trainer::post(WorkerAction action, ViewNumber view) {
  impl_->post(std::move(action), view);
}
void Trainer::set_ledger(std::unique_ptr<Ledger> ledger) {
  impl_->set_ledger(std::move(ledger));
}
std::optional<std::vector<ConstSlice>> Trainer::state_payload(const StateTiles& meta) {
  return impl_->executor().state_payload(meta);
}
void Trainer::set_speed(double fraction) {
  impl_->speed.store(fraction, std::memory_order_relaxed);
}
void Trainer::poison(Step step) {
  impl_->poison(step);
}
ExecutorCounters Trainer::counters() const {
  return impl_->counters();
}
const StateMap& Trainer::map() const {
  return impl_->executor().map();
}
const ByteVector& Trainer::kernels() const {
  return impl_->kernels;
}
std::size_t Trainer::boundary_elements() const {
  return impl_->executor().boundary_elements();
}
void Trainer::stop() {
  impl_->stop();
}

}  // namespace planaria
