#include "trainer_cluster.hpp"

#include <algorithm>
#include <utility>

#include "common/transport/ucx_transport.hpp"
#include "tests/far_device.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {

JobSpec cluster_job(bool tied) {
  JobSpec job;
  job.name = "cluster";
  job.model = {.family = ModelFamily::gpt2,
               .layers = 2,
               .heads = 2,
               .kv_heads = 2,
               .width = 32,
               .ffn_width = 64,
               .vocab = 256,
               .context = 16,
               .tied_embedding = tied,
               .dropout = 0.1};
  job.data.path = "/usr/share/common-licenses/GPL-3";
  job.data.validation_fraction = 0.1;
  job.batch = {.micro_batches = 16, .sequences = 1, .slots = 8};
  job.optimizer.learning_rate = 2e-3;
  job.optimizer.warmup_steps = 2;
  job.train = {.steps = 5, .seed = 7, .tile_elements = 1024, .evaluate_every = 2, .evaluation_batches = 6};
  job.cluster.lease_ms = 60000;
  job.cluster.stall_timeout_ms = 120000;
  job.cluster.prepare_timeout_ms = 60000;
  job.cluster.suspect_grace_ms = 1;
  job.cluster.rebalance_gain = 100;
  job.checkpoint = {.every_steps = 2, .keep = 2};
  job.integrity.check_every = 1;
  return job;
}

std::shared_ptr<const Dataset> open_data(JobSpec& job) {
  auto dataset = Dataset::open(job.data, job.model.context, job.model.vocab);
  EXPECT_TRUE(dataset.ok()) << (dataset.ok() ? "" : dataset.error().describe());
  job.data.content_hash = dataset->content_hash();
  return std::make_shared<Dataset>(std::move(dataset).value());
}

std::shared_ptr<Device> make_device(std::size_t threads, bool far) {
  auto device = make_cpu_device({.threads = threads});
  EXPECT_TRUE(device.ok());
  if (far) return std::make_shared<FarDevice>(std::move(device).value());
  return std::move(device).value();
}

TrainerCluster::TrainerCluster(JobSpec job, std::shared_ptr<const Dataset> dataset, const std::string& folder,
                               Network network)
    : job_(std::move(job)),
      dataset_(std::move(dataset)),
      folder_(folder),
      manners_(network),
      chance_(philox_key(network.disorder.value_or(0), RandomPurpose::chaos)) {
  network_ = std::make_unique<InProcessNetwork>(1);
  CoordinatorCoreConfig config;
  config.job = job_;
  config.job_hash = job_hash(job_);
  config.job_key = 1;
  coordinator_ = std::make_unique<CoordinatorCore>(std::move(config));
  post([this] { carry_out(coordinator_->on(coordinator_event::Started{}, clock_.now())); });
}

TrainerCluster::~TrainerCluster() {
  for (auto& node : nodes_) {
    node->trainer->stop();
    if (node->plane) node->plane->stop();
  }
}

void TrainerCluster::post(std::function<void()> task) {
  const std::scoped_lock lock(mutex_);
  tasks_.push_back(std::move(task));
  wake_.notify_one();
}

void TrainerCluster::perhaps_again(const std::function<void()>& task) {
  if (!manners_.disorder) return;
  const std::scoped_lock lock(mutex_);
  if (!chance_.chance(0.15)) return;
  ++repeated_;
  later_.emplace(clock_.now() + std::chrono::microseconds(chance_.below(30'000)), task);
}

// An event of the data plane; whatever else is late, a data message may be.
void TrainerCluster::take(std::size_t worker, WorkerEvent event) {
  const bool data = std::holds_alternative<worker_event::Data>(event);
  const std::function<void()> task = [this, worker, event = std::move(event)] { feed(worker, event); };
  if (data) perhaps_again(task);
  post(task);
}

std::shared_ptr<Transport> TrainerCluster::make_transport(PeerId self) {
  std::shared_ptr<Transport> transport;
  if (manners_.sockets) {
    auto made = make_ucx_transport({.job = 1, .self = self});
    EXPECT_TRUE(made.ok()) << made.error().describe();
    transport = std::move(made).value();
  } else {
    transport = network_->create(self);
  }
  if (!manners_.disorder) return transport;
  const std::uint64_t seed = 1000 * *manners_.disorder + self.worker.value();
  auto faulty = std::make_shared<FaultyTransport>(transport, seed, clock_, false);
  faulty->set_default_rule(Direction::outbound,
                           {.duplicate = 0.2, .jitter = std::chrono::milliseconds(2), .overtake = true});
  faulty_.push_back(faulty);
  return faulty;
}

void TrainerCluster::add_worker(std::size_t threads, bool far) {
  const std::size_t index = nodes_.size();
  nodes_.push_back(std::make_unique<Node>());
  Node& node = *nodes_.back();
  node.session = SessionId(index + 1);
  TrainerHooks hooks;
  hooks.completed = [this, index](WorkerEvent event) {
    post([this, index, event = std::move(event)] { feed(index, event); });
  };
  hooks.failed = [](const Error& error) { ADD_FAILURE() << error.describe(); };
  hooks.send = [this, index](WorkerId to, ViewNumber view, std::vector<ConstSlice> payload) {
    post([this, index, to, view, payload = std::move(payload)] {
      if (nodes_[index]->alive) nodes_[index]->plane->send(to, view, payload);
    });
  };
  auto pretrained = open_pretrained(posix_file_system(), job_);
  ASSERT_TRUE(pretrained.ok()) << pretrained.error().describe();
  auto trainer = Trainer::start({.job = job_,
                                 .device = make_device(threads, far),
                                 .dataset = dataset_,
                                 .pretrained = std::move(*pretrained),
                                 .files = &posix_file_system(),
                                 .checkpoint_root = folder_ + "/checkpoints",
                                 .writer = "w" + std::to_string(index)},
                                std::move(hooks));
  ASSERT_TRUE(trainer.ok()) << trainer.error().describe();
  node.trainer = std::move(trainer).value();
  Register registration;
  registration.job = job_hash(job_);
  registration.numeric_class = "test";
  registration.wanted = WorkerId(static_cast<std::uint32_t>(index));
  node.core = std::make_unique<WorkerCore>(
      core_config(job_, node.trainer->map(), dataset_->windows(Split::validation) != 0, registration));
  post([this, index] { feed(index, worker_event::ControlConnected{}); });
}

void TrainerCluster::kill(std::size_t worker) {
  Node& node = *nodes_[worker];
  node.alive = false;
  if (!manners_.sockets) network_->kill(WorkerId(static_cast<std::uint32_t>(worker)));
  if (manners_.sockets && node.plane) node.plane->stop();
  node.trainer->stop();
  post([this, &node] { carry_out(coordinator_->on(coordinator_event::SessionLost{node.session}, clock_.now())); });
}

void TrainerCluster::tell_coordinator(std::size_t worker, const WorkerMessage& message) {
  const Node& node = *nodes_[worker];
  WorkerEnvelope envelope{kProtocolVersion, {}, {}, message};
  if (node.identity) {
    envelope.worker = node.identity->worker;
    envelope.incarnation = node.identity->incarnation;
  }
  if (auto* registration = std::get_if<Register>(&envelope.message)) {
    if (node.plane) registration->address = node.plane->address();
  }
  if (worker == 0 && std::holds_alternative<StepCommitted>(message))
    commits.push_back(std::get<StepCommitted>(message));
  const std::function<void()> task = [this, event = coordinator_event::SessionMessage{node.session, envelope}] {
    carry_out(coordinator_->on(event, clock_.now()));
  };
  if (!std::holds_alternative<Register>(message)) perhaps_again(task);
  post(task);
}

void TrainerCluster::carry_out(const CoordinatorActions& actions) {
  for (const CoordinatorAction& action : actions) {
    if (const auto* send = std::get_if<coordinator_action::Send>(&action)) {
      const std::size_t worker = send->session.value() - 1;
      const std::function<void()> task = [this, worker, envelope = send->envelope] {
        if (const auto* message = std::get_if<Welcome>(&envelope.message)) welcome(worker, *message);
        feed(worker, worker_event::Control{envelope.generation, envelope.message});
      };
      if (!std::holds_alternative<Welcome>(send->envelope.message)) perhaps_again(task);
      post(task);
    } else if (const auto* said = std::get_if<coordinator_action::Announce>(&action)) {
      story_ += "coordinator: " + said->text + "\n";
    } else if (const auto* exit = std::get_if<coordinator_action::Exit>(&action)) {
      EXPECT_TRUE(exit->success) << exit->reason;
      coordinator_done_ = true;
    }
  }
}

void TrainerCluster::welcome(std::size_t worker, const Welcome& message) {
  Node& node = *nodes_[worker];
  if (!node.alive || node.identity) return;
  node.identity = Identity{message.worker, message.incarnation, {}, {}};
  node.plane = std::make_unique<DataPlane>(make_transport({message.worker, message.incarnation}), node.trainer->map(),
                                           node.trainer->boundary_elements(),
                                           [this, worker](WorkerEvent event) { take(worker, std::move(event)); });
  EXPECT_TRUE(node.plane->start().ok());
  auto ledger =
      Ledger::create(ledger_path(folder_, message.worker, message.incarnation), message.worker, message.incarnation);
  EXPECT_TRUE(ledger.ok());
  node.trainer->set_ledger(std::move(ledger).value());
  Register again;
  again.job = job_hash(job_);
  again.numeric_class = "test";
  again.identity = node.identity;
  tell_coordinator(worker, again);
}

void TrainerCluster::feed(std::size_t worker, const WorkerEvent& event) {
  Node& node = *nodes_[worker];
  if (!node.alive) return;
  for (const WorkerAction& action : node.core->on(event, clock_.now())) {
    if (watch_ && !watch_(worker, action)) kill(worker);
    if (!node.alive) return;
    carry_out(worker, action);
  }
}

void TrainerCluster::carry_out(std::size_t worker, const WorkerAction& action) {
  using namespace worker_action;
  Node& node = *nodes_[worker];
  if (std::holds_alternative<ComputeMicroBatch>(action)) {
    node.trainer->post(action, node.core->view());
  } else if (const auto* enter = std::get_if<EnterView>(&action)) {
    node.plane->enter(*enter, node.identity->worker);
  } else if (const auto* fence = std::get_if<FenceView>(&action)) {
    node.plane->fence(*fence);
  } else if (const auto* small = std::get_if<SendSmall>(&action)) {
    node.plane->send(small->to, small->view, data_slices(small->meta));
  } else if (const auto* state = std::get_if<SendState>(&action)) {
    auto payload = node.trainer->state_payload(state->meta);
    ASSERT_TRUE(payload.has_value());
    node.plane->send(state->to, state->view, std::move(*payload));
  } else if (const auto* control = std::get_if<SendControl>(&action)) {
    tell_coordinator(worker, control->message);
  } else if (const auto* note = std::get_if<Note>(&action)) {
    story_ += "worker " + std::to_string(worker) + ": " + note->text + "\n";
  } else if (const auto* stop = std::get_if<Stop>(&action)) {
    EXPECT_TRUE(stop->success || stop->reason.find(may_be_refused) != std::string::npos) << stop->reason;
    node.stopped = true;
  } else {
    node.trainer->post(action, node.core->view());
  }
}

bool TrainerCluster::finished() const {
  return std::ranges::all_of(nodes_, [](const auto& node) { return !node->alive || node->stopped; }) &&
         coordinator_->result().has_value();
}

void TrainerCluster::run() {
  const Instant deadline = clock_.now() + std::chrono::seconds(30);
  while (!finished()) {
    network_->pump();
    for (const auto& transport : faulty_) transport->poll();
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      const auto patience = std::chrono::milliseconds(manners_.disorder ? 1 : 5);
      wake_.wait_for(lock, patience, [&] { return !tasks_.empty(); });
      if (!later_.empty() && later_.begin()->first <= clock_.now()) {
        task = std::move(later_.begin()->second);
        later_.erase(later_.begin());
      } else if (!tasks_.empty()) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
    }
    if (task) task();
    const Instant now = clock_.now();
    ASSERT_LT(now, deadline) << "the job hangs: " << coordinator_->status_reason() << "\n" << story_;
    if (now >= coordinator_->next_tick()) carry_out(coordinator_->on(coordinator_event::Tick{}, now));
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      if (nodes_[i]->alive && now >= nodes_[i]->core->next_tick()) feed(i, worker_event::Tick{});
    }
  }
  for (auto& node : nodes_) node->trainer->stop();
}

std::vector<LedgerRecord> TrainerCluster::ledgers() const {
  std::vector<LedgerRecord> records;
  for (const auto& node : nodes_) {
    if (!node->identity) continue;
    auto read = read_ledger(ledger_path(folder_, node->identity->worker, node->identity->incarnation));
    EXPECT_TRUE(read.ok());
    records.insert(records.end(), read->records.begin(), read->records.end());
  }
  return records;
}

std::uint64_t TrainerCluster::torn_leases() const {
  std::uint64_t torn = 0;
  for (const auto& node : nodes_) torn += node->trainer->counters().torn_leases;
  return torn;
}

}  // namespace planaria
