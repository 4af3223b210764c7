#include "coordinator/planner/evaluator.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

namespace planaria::planner {
namespace {

constexpr double kRounding = 1e-9;
// What may be given for owners of a block on different hosts, of a step's time.
constexpr double kOneHostPenalty = 1e-3;
// ... and for a second keeper of each state: without one a death costs the steps since the last checkpoint.
constexpr double kKeptOncePenalty = 0.5;

std::uint64_t pair_key(std::uint32_t a, std::uint32_t b) {
  return (std::uint64_t{std::min(a, b)} << 32) | std::max(a, b);
}

template <class Map>
std::uint32_t index_in(Map& map, const std::string& name) {
  return map.emplace(name, static_cast<std::uint32_t>(map.size())).first->second;
}

}  // namespace

std::uint32_t count_nodes(SlotRange range) {
  std::uint32_t count = 0;
  for (std::uint32_t begin = range.begin; begin < range.end; ++count) {
    const std::uint32_t room = std::bit_floor(range.end - begin);
    begin += begin == 0 ? room : std::min(begin & (~begin + 1), room);
  }
  return count;
}

std::uint32_t open_sums(SlotRange range) {
  // Whole are the maximal nodes of what has been added. Their first ones grow from the range's begin towards the best
  // aligned boundary, and stay; behind them the others are a binary counter's ones, most where all its bits are.
  std::uint32_t most = 0;
  std::uint32_t begin = range.begin;
  for (std::uint32_t nodes = 0; begin < range.end; ++nodes) {
    const std::uint32_t room = range.end - begin;
    const std::uint32_t node = begin == 0 ? room : std::min(begin & (~begin + 1), room);
    most = std::max(most, nodes + static_cast<std::uint32_t>(std::bit_width(node)));
    begin += node;
  }
  return most;
}

bool Score::better_than(const Score& other) const {
  if (fits() != other.fits()) return fits();
  if (!fits()) return excess < other.excess * (1 - kRounding);
  return cost_s < other.cost_s * (1 - kRounding);
}

Flights flights_of(std::size_t stage, std::size_t stages, std::uint64_t micro_batches) {
  return {.ahead = std::min<std::uint64_t>(stages - stage, micro_batches), .kept = micro_batches};
}

Evaluator::Evaluator(const ModelProfile& model, const ClusterProfile& cluster, const PlanOptions& options)
    : model_(&model), cluster_(&cluster), options_(&options) {
  seconds_.push_back(0);
  elements_.push_back(0);
  saved_.push_back(0);
  deltas_.push_back(0);
  for (const BlockProfile& block : model.blocks) {
    seconds_.push_back(seconds_.back() + block.seconds());
    elements_.push_back(elements_.back() + block.elements);
    saved_.push_back(saved_.back() + block.saved_bytes);
    deltas_.push_back(deltas_.back() + block.delta_bytes);
  }
  compile_places();
  const std::size_t count = cluster.workers.size();
  for (Traffic* traffic : {&reduce_, &gather_}) {
    traffic->send_s.resize(count);
    traffic->receive_s.resize(count);
    traffic->sent.resize(count);
  }
  for (auto* of_worker : {&shard_elements_, &memory_gradient_, &memory_state_, &memory_parameter_, &memory_activation_,
                          &memory_boundary_}) {
    of_worker->resize(count);
  }
  line_of_.assign(count, kNone);
  blocks_of_.resize(count);
  held_.resize(count);
  if (options.previous) compile_previous();
}

void Evaluator::compile_places() {
  std::map<std::string, std::uint32_t> hosts, zones, nics;
  for (const NicProfile& nic : cluster_->nics) index_in(nics, nic.name);
  // Sums are indexed by the order in the list.
  for (std::uint32_t i = 0; i < cluster_->nics.size(); ++i) nics[cluster_->nics[i].name] = i;
  nics_ = static_cast<std::uint32_t>(cluster_->nics.size());
  for (const WorkerProfile& worker : cluster_->workers) {
    speed_.push_back(worker.speed);
    beside_.push_back(worker.beside_s);
    memory_.push_back(static_cast<double>(std::max<std::uint64_t>(worker.memory_bytes, 1)));
    const auto nic = nics.find(worker.nic);
    place_.push_back(
        {index_in(hosts, worker.host), index_in(zones, worker.zone), nic == nics.end() ? kNone : nic->second});
  }
  sums_.host.resize(hosts.size());
  sums_.zone.resize(zones.size());
  sums_.host_nic.resize(hosts.size() * nics_);
  sums_.zone_nic.resize(zones.size() * nics_);
  host_cost_ = 1 / cluster_->same_host.bytes_per_s;
  zone_cost_ = 1 / cluster_->same_zone.bytes_per_s;
  far_cost_ = 1 / cluster_->between_zones.bytes_per_s;
  for (const NicProfile& nic : cluster_->nics) nic_cost_.push_back(1 / nic.link.bytes_per_s);
  const auto index = [&](WorkerId worker) {
    return static_cast<std::uint32_t>(std::ranges::lower_bound(cluster_->workers, worker, {}, &WorkerProfile::worker) -
                                      cluster_->workers.begin());
  };
  for (const LinkOverride& pair : cluster_->overrides) {
    const std::uint32_t a = index(pair.from);
    const std::uint32_t b = index(pair.to);
    pair_links_[pair_key(a, b)] = pair.link;
  }
  for (const auto& [key, link] : pair_links_) {
    const Pair pair{static_cast<std::uint32_t>(key >> 32), static_cast<std::uint32_t>(key), link};
    if (link.bytes_per_s != class_rate(pair.a, pair.b)) rated_pairs_.push_back(pair);
    distant_pairs_.push_back(pair);
  }
  for (auto* pairs : {&rated_pairs_, &distant_pairs_}) {
    std::ranges::sort(*pairs, {}, [](const Pair& pair) { return pair_key(pair.a, pair.b); });
  }
}

void Evaluator::compile_previous() {
  held_pipelines_ = static_cast<std::uint32_t>(options_->previous->pipelines.size());
  const auto& workers = cluster_->workers;
  for (std::uint32_t p = 0; p < held_pipelines_; ++p) {
    for (const PlanStage& stage : options_->previous->pipelines[p].stages) {
      const auto found = std::ranges::lower_bound(workers, stage.worker, {}, &WorkerProfile::worker);
      if (found == workers.end() || found->worker != stage.worker) continue;
      const auto index = static_cast<std::uint32_t>(found - workers.begin());
      held_[index] = {stage.blocks, p};
      for (std::uint32_t block = stage.blocks.begin; block < stage.blocks.end; ++block) {
        host_holds_.insert((std::uint64_t{place_[index].host} << 32) | block);
        zone_holds_.insert((std::uint64_t{place_[index].zone} << 32) | block);
      }
    }
  }
}

LinkProfile Evaluator::link(std::uint32_t a, std::uint32_t b) const {
  if (!pair_links_.empty()) {
    if (const auto pair = pair_links_.find(pair_key(a, b)); pair != pair_links_.end()) return pair->second;
  }
  const Place& at = place_[a];
  const Place& other = place_[b];
  if (at.host == other.host) return cluster_->same_host;
  if (at.zone != other.zone) return cluster_->between_zones;
  if (at.nic != kNone && at.nic == other.nic) return cluster_->nics[at.nic].link;
  return cluster_->same_zone;
}

double Evaluator::class_rate(std::uint32_t a, std::uint32_t b) const {
  const Place& at = place_[a];
  const Place& other = place_[b];
  if (at.host == other.host) return cluster_->same_host.bytes_per_s;
  if (at.zone != other.zone) return cluster_->between_zones.bytes_per_s;
  if (at.nic != kNone && at.nic == other.nic) return cluster_->nics[at.nic].link.bytes_per_s;
  return cluster_->same_zone.bytes_per_s;
}

double Evaluator::crossing_seconds(const LinkProfile& border) const {
  return 2 * (border.latency_s + static_cast<double>(model_->boundary_bytes) / border.bytes_per_s);
}

void Evaluator::time_line(Line& line) const {
  const auto boundary = static_cast<double>(model_->boundary_bytes);
  std::uint32_t begin = 0;
  double beside = 0;
  double slowest = 0;
  double stages = 0;
  double borders = 0;
  double slowest_link = 0;
  for (std::size_t s = 0; s < line.workers.size(); ++s) {
    beside = std::max(beside, beside_[line.workers[s]]);
    const double stage = block_seconds(begin, line.ends[s]) / speed_[line.workers[s]];
    stages += stage;
    slowest = std::max(slowest, stage);
    begin = line.ends[s];
    if (s + 1 == line.workers.size()) break;
    const LinkProfile next = link(line.workers[s], line.workers[s + 1]);
    borders += crossing_seconds(next);
    slowest_link = std::max(slowest_link, boundary / next.bytes_per_s);
  }
  line.flow = flow_through(static_cast<std::uint32_t>(line.workers.size()), stages, slowest);
  line.flow.fill += borders + beside;
  line.flow.period = std::max(slowest, slowest_link);
}

double Evaluator::compute_seconds(const Candidate& candidate) const {
  double slowest = 0;
  for (const Line& line : candidate) slowest = std::max(slowest, line_seconds(line));
  return slowest;
}

double Evaluator::guess_memory(BlockRange blocks, const MemoryGuide& guide) const {
  const auto elements = static_cast<double>(elements_[blocks.end] - elements_[blocks.begin]);
  const auto state = static_cast<double>(model_->state_width * options_->state_generations);
  const auto gradient = static_cast<double>(model_->gradient_width);
  const auto working = static_cast<double>(2 * model_->parameter_width);
  const double share = 1.0 / guide.pipelines;
  const double steps = options_->keeps_finished ? 2 : 1;
  double bytes = elements * gradient * (steps * (guide.open_sums + share) + share * (guide.pipelines - 1));
  bytes += options_->shard_optimizer ? elements * (state * share + working)
                                     : elements * (state + (model_->master_is_working ? 0 : working));
  if (blocks.end == this->blocks())
    bytes += static_cast<double>(model_->tied_elements) * (steps * gradient * guide.open_sums + working);
  const auto ahead = static_cast<double>(guide.flights.ahead);
  bytes += ahead * static_cast<double>(saved_[blocks.end] - saved_[blocks.begin]);
  const int neighbours = (blocks.begin > 0 ? 1 : 0) + (blocks.end < this->blocks() ? 1 : 0);
  return bytes + neighbours * (steps * static_cast<double>(guide.flights.kept) + ahead) *
                     static_cast<double>(model_->boundary_bytes);
}

bool Evaluator::may_fit(const Line& line, std::uint32_t slots) const {
  const std::uint64_t micro_batches = std::uint64_t{slots} * per_slot();
  std::uint32_t begin = 0;
  for (std::size_t s = 0; s < line.workers.size(); ++s) {
    const std::uint32_t end = line.ends[s];
    const bool head = end == blocks();
    const std::uint64_t elements = elements_[end] - elements_[begin];
    const std::uint64_t tied = head ? model_->tied_elements : 0;
    const Flights flights = flights_of(s, line.workers.size(), micro_batches);
    const std::uint64_t neighbours = (begin > 0 ? 1 : 0) + (head ? 0 : 1);
    const bool copies = options_->shard_optimizer || !model_->master_is_working;
    std::uint64_t bytes = model_->gradient_width * (elements + tied);
    if (!options_->shard_optimizer) bytes += elements * model_->state_width * options_->state_generations;
    bytes += 2 * model_->parameter_width * ((copies ? elements : 0) + tied);
    bytes += flights.ahead * (saved_[end] - saved_[begin]);
    bytes += neighbours * (flights.kept + flights.ahead) * model_->boundary_bytes;
    if (static_cast<double>(bytes) > memory_[line.workers[s]]) return false;
    begin = end;
  }
  return true;
}

std::uint64_t Evaluator::shard_elements(std::uint32_t block, std::uint32_t pipeline, std::uint32_t pipelines) const {
  const std::uint64_t elements = model_->blocks[block].elements;
  const std::uint64_t tiles = (elements + model_->tile_elements - 1) / model_->tile_elements;
  const TileRange shard = block_shard(tiles, block, pipeline, pipelines);
  return std::min(shard.end * model_->tile_elements, elements) -
         std::min(shard.begin * model_->tile_elements, elements);
}

std::uint64_t Evaluator::tied_shard_elements(std::uint32_t pipeline, std::uint32_t pipelines) const {
  const std::uint64_t elements = model_->blocks[0].elements;
  const std::uint64_t tiles = (elements + model_->tile_elements - 1) / model_->tile_elements;
  const TileRange shard = block_shard(tiles, 0, pipeline, pipelines);
  return std::min(shard.end * model_->tile_elements, model_->tied_elements) -
         std::min(shard.begin * model_->tile_elements, model_->tied_elements);
}

void Evaluator::add(Sums& sums, std::span<const Side> sides, double sign) const {
  for (const Side& side : sides) {
    const Place& at = place_[side.worker];
    const double weight = sign * static_cast<double>(side.weight);
    sums.all += weight;
    sums.host[at.host] += weight;
    sums.zone[at.zone] += weight;
    if (at.nic == kNone) continue;
    sums.host_nic[std::size_t{at.host} * nics_ + at.nic] += weight;
    sums.zone_nic[std::size_t{at.zone} * nics_ + at.nic] += weight;
  }
}

// Seconds for one unit to or from each of `sums` but the worker's own weight.
double Evaluator::weighted(const Sums& sums, std::uint32_t worker, double own) const {
  const Place& at = place_[worker];
  const double host = sums.host[at.host] - own;
  const double zone = sums.zone[at.zone] - own;
  double seconds = host * host_cost_;
  double alike = 0;
  if (at.nic != kNone) {
    alike = sums.zone_nic[std::size_t{at.zone} * nics_ + at.nic] - sums.host_nic[std::size_t{at.host} * nics_ + at.nic];
    seconds += alike * nic_cost_[at.nic];
  }
  seconds += (zone - host - alike) * zone_cost_;
  return seconds + (sums.all - own - zone) * far_cost_;
}

void Evaluator::receive(std::span<const Side> from, std::span<const Side> to, Receivers& receivers) {
  receivers.sides.assign(to.begin(), to.end());
  receivers.seconds.resize(to.size());
  receivers.units.resize(to.size());
  add(sums_, to, 1);
  for (std::size_t p = 0; p < from.size(); ++p) {
    // A worker is in one pipeline only.
    const double own = from[p].worker == to[p].worker ? static_cast<double>(to[p].weight) : 0;
    receivers.seconds[p] = weighted(sums_, from[p].worker, own);
    receivers.units[p] = static_cast<std::uint64_t>(sums_.all - own);
  }
  add(sums_, to, -1);
}

void Evaluator::send(std::span<const Side> from, const Receivers& receivers, Traffic& traffic) {
  const std::vector<Side>& to = receivers.sides;
  add(sums_, from, 1);
  for (std::size_t p = 0; p < from.size(); ++p) {
    const double own = from[p].worker == to[p].worker ? static_cast<double>(from[p].weight) : 0;
    traffic.send_s[from[p].worker] += static_cast<double>(from[p].weight) * receivers.seconds[p];
    traffic.receive_s[to[p].worker] += static_cast<double>(to[p].weight) * weighted(sums_, to[p].worker, own);
    traffic.sent[from[p].worker] += from[p].weight * receivers.units[p];
  }
  add(sums_, from, -1);
  if (!rated_pairs_.empty()) correct_pairs(from, to, traffic);
}

void Evaluator::correct_pairs(std::span<const Side> from, std::span<const Side> to, Traffic& traffic) {
  const auto correct = [&](std::uint32_t a, std::uint32_t b, const LinkProfile& link) {
    const std::uint32_t p = line_of_[a];
    const std::uint32_t q = line_of_[b];
    if (p == kNone || q == kNone || from[p].worker != a || to[q].worker != b) return;
    const double bytes = static_cast<double>(from[p].weight) * static_cast<double>(to[q].weight);
    const double more = bytes / link.bytes_per_s - bytes / class_rate(a, b);
    traffic.send_s[a] += more;
    traffic.receive_s[b] += more;
  };
  for (const Pair& pair : rated_pairs_) {
    correct(pair.a, pair.b, pair.link);
    correct(pair.b, pair.a, pair.link);
  }
}

// All that depends on who has which blocks, and not on slots: layouts are often tried with other slots only.
void Evaluator::take_places(const Candidate& candidate) {
  const auto same = [](const Line& a, const Line& b) { return a.workers == b.workers && a.ends == b.ends; };
  if (std::ranges::equal(candidate, placed_, same)) return;
  for (const Line& line : placed_) {
    for (const std::uint32_t worker : line.workers) {
      line_of_[worker] = kNone;
      shard_elements_[worker] = 0;
      gather_.clear(worker);
    }
  }
  placed_ = candidate;
  const auto count = static_cast<std::uint32_t>(candidate.size());
  for (std::uint32_t p = 0; p < count; ++p) {
    for (std::size_t s = 0; s < candidate[p].workers.size(); ++s) {
      const std::uint32_t worker = candidate[p].workers[s];
      line_of_[worker] = p;
      blocks_of_[worker] = {s == 0 ? 0 : candidate[p].ends[s - 1], candidate[p].ends[s]};
    }
  }
  stage_.assign(count, 0);
  nodes_.resize(count);
  shards_.resize(count);
  ones_.resize(count);
  reduces_.resize(blocks() + 1);
  blocks_on_one_host_ = 0;
  for (std::uint32_t block = 0; block < blocks(); ++block) place_block(candidate, block);
  if (model_->tied_elements > 0) place_tied(candidate);
}

void Evaluator::place_block(const Candidate& candidate, std::uint32_t block) {
  const auto count = static_cast<std::uint32_t>(candidate.size());
  bool one_host = count > 1;
  for (std::uint32_t p = 0; p < count; ++p) {
    if (block >= candidate[p].ends[stage_[p]]) ++stage_[p];
    const std::uint32_t worker = candidate[p].workers[stage_[p]];
    const std::uint64_t elements = shard_elements(block, p, count);
    shards_[p] = {worker, elements * model_->gradient_width};
    ones_[p] = {worker, 1};
    shard_elements_[worker] += elements;
    one_host = one_host && place_[worker].host == place_[shards_[0].worker].host;
  }
  if (one_host) ++blocks_on_one_host_;
  receive(ones_, shards_, reduces_[block]);
  if (count > 1) gather();
}

// The head's sums go to who finishes the embedding's tiles; the embedding's new values come to the heads.
void Evaluator::place_tied(const Candidate& candidate) {
  const auto count = static_cast<std::uint32_t>(candidate.size());
  for (std::uint32_t p = 0; p < count; ++p) {
    const std::uint32_t embed = candidate[p].workers.front();
    const std::uint32_t head = candidate[p].workers.back();
    shards_[p] = {embed, tied_shard_elements(p, count) * model_->gradient_width};
    ones_[p] = {head, embed == head ? 0U : 1U};  // who holds both has the values by the embedding's gathering
  }
  receive(ones_, shards_, reduces_[blocks()]);
  gather();
}

// New values of `shards_` to each of `ones_`.
void Evaluator::gather() {
  const std::uint64_t gathered = options_->shard_optimizer ? model_->parameter_width : model_->gradient_width;
  for (Side& shard : shards_) shard.weight = shard.weight / model_->gradient_width * gathered;
  Receivers all;
  receive(shards_, ones_, all);
  send(shards_, all, gather_);
}

// Sums of the lines' slots to the owners of shards.
void Evaluator::measure_reduce(const Candidate& candidate) {
  const auto count = static_cast<std::uint32_t>(candidate.size());
  std::ranges::fill(stage_, 0);
  for (std::uint32_t block = 0; block < blocks(); ++block) {
    for (std::uint32_t p = 0; p < count; ++p) {
      if (block >= candidate[p].ends[stage_[p]]) ++stage_[p];
      const Side& shard = reduces_[block].sides[p];
      nodes_[p] = {shard.worker, lines_nodes_[p]};
      memory_gradient_[shard.worker] += shard.weight * (all_nodes_ - lines_nodes_[p]);
    }
    if (count > 1) send(nodes_, reduces_[block], reduce_);
  }
  if (model_->tied_elements == 0) return;
  for (std::uint32_t p = 0; p < count; ++p) {
    const Side& shard = reduces_[blocks()].sides[p];
    const std::uint32_t head = candidate[p].workers.back();
    nodes_[p] = {head, lines_nodes_[p]};
    memory_gradient_[shard.worker] += shard.weight * (shard.worker == head ? all_nodes_ - lines_nodes_[p] : all_nodes_);
  }
  send(nodes_, reduces_[blocks()], reduce_);
}

void Evaluator::measure_memory(const Line& line, std::uint32_t slot) {
  const std::uint64_t micro_batches = std::uint64_t{line.slots} * per_slot();
  const std::uint64_t sums = open_sums({slot, slot + line.slots});
  const std::uint64_t steps = options_->keeps_finished ? 2 : 1;
  std::uint32_t begin = 0;
  for (std::size_t s = 0; s < line.workers.size(); ++s) {
    const std::uint32_t worker = line.workers[s];
    const std::uint32_t end = line.ends[s];
    const bool head = end == blocks();
    const std::uint64_t elements = elements_[end] - elements_[begin];
    const std::uint64_t tied = head ? model_->tied_elements : 0;
    const Flights flights = flights_of(s, line.workers.size(), micro_batches);
    const std::uint64_t stateful = options_->shard_optimizer ? shard_elements_[worker] : elements;
    memory_state_[worker] = stateful * model_->state_width * options_->state_generations;
    const bool copies = options_->shard_optimizer || !model_->master_is_working;
    memory_parameter_[worker] = 2 * model_->parameter_width * ((copies ? elements : 0) + tied);
    memory_gradient_[worker] += steps * model_->gradient_width * (sums * (elements + tied) + shard_elements_[worker]);
    memory_activation_[worker] = flights.ahead * (saved_[end] - saved_[begin]);
    const std::uint64_t neighbours = (begin > 0 ? 1 : 0) + (head ? 0 : 1);
    memory_boundary_[worker] = neighbours * (steps * flights.kept + flights.ahead) * model_->boundary_bytes;
    excess_ += std::max(0.0, static_cast<double>(needed_bytes(worker)) / memory_[worker] - 1);
    begin = end;
  }
}

std::uint64_t Evaluator::needed_bytes(std::uint32_t worker) const {
  return memory_state_[worker] + memory_parameter_[worker] + memory_gradient_[worker] + memory_activation_[worker] +
         memory_boundary_[worker];
}

// With one micro-batch in flight for each stage from here to the head, whoever waits for a border computes nothing
// meanwhile. So as many more as the stages compute while one crosses the borders to the head and back, and one since no
// two micro-batches take equally long. Weights' gradients wait for the gaps that stages below leave
// (worker/trainer/micro_batch_runner.hpp).
Allowance Evaluator::useful(const Line& line, std::size_t stage) const {
  const std::uint64_t micro_batches = std::uint64_t{line.slots} * per_slot();
  const Flights flights = flights_of(stage, line.workers.size(), micro_batches);
  double crossing = 0;
  for (std::size_t s = stage; s + 1 < line.workers.size(); ++s) {
    crossing += crossing_seconds(link(line.workers[s], line.workers[s + 1]));
  }
  const bool head = stage + 1 == line.workers.size();
  const double most = head ? 0 : static_cast<double>(micro_batches - flights.ahead);
  return {.ahead = static_cast<std::uint32_t>(std::min(most, 1 + std::round(crossing / line.flow.period))),
          .waiting = static_cast<std::uint32_t>(std::min<std::uint64_t>(stage, micro_batches))};
}

// A micro-batch in flight keeps its activations and an output of a neighbour; one that waits its activations and the
// gradients of its linear maps' outputs, and one of another slot an accumulator that isn't folded yet.
void Evaluator::spend_spare_memory(BlockRange blocks, std::uint32_t worker, const Allowance& most,
                                   WorkerPrediction& prediction) const {
  const std::uint64_t tied = blocks.end == this->blocks() ? model_->tied_elements : 0;
  const std::uint64_t accumulator = model_->gradient_width * (elements_[blocks.end] - elements_[blocks.begin] + tied);
  const std::uint64_t saved = saved_[blocks.end] - saved_[blocks.begin];
  const std::uint64_t kept = saved + deltas_[blocks.end] - deltas_[blocks.begin];
  const double spare = memory_[worker] - static_cast<double>(prediction.memory_bytes);
  const std::uint64_t flying = saved + (blocks.begin > 0 ? 2 : 1) * model_->boundary_bytes;
  const double room = spare / static_cast<double>(flying);
  const auto ahead = spare > 0 ? static_cast<std::uint64_t>(std::min<double>(most.ahead, room)) : 0;
  std::uint64_t waiting_bytes = 0, gradients = 0;
  for (std::uint64_t waiting = 1; waiting <= most.waiting; ++waiting) {
    const std::uint64_t open = (waiting - 1 + per_slot() - 1) / per_slot();
    if (static_cast<double>(ahead * flying + waiting * kept + open * accumulator) > spare) break;
    prediction.allowance.waiting = static_cast<std::uint32_t>(waiting);
    waiting_bytes = waiting * kept;
    gradients = open * accumulator;
  }
  prediction.allowance.ahead = static_cast<std::uint32_t>(ahead);
  prediction.activation_bytes += ahead * saved + waiting_bytes;
  prediction.boundary_bytes += ahead * (flying - saved);
  prediction.gradient_bytes += gradients;
  prediction.memory_bytes += ahead * flying + waiting_bytes + gradients;
}

std::uint64_t Evaluator::missing_bytes(std::uint32_t worker, std::uint32_t block, std::uint32_t pipeline,
                                       std::uint32_t pipelines) const {
  const Held& held = held_[worker];
  const std::uint64_t elements = model_->blocks[block].elements;
  const bool has = held.blocks.contains(BlockIndex(block));
  if (!options_->shard_optimizer) {
    const std::uint64_t working = model_->master_is_working ? 0 : model_->parameter_width;
    return has ? 0 : elements * (model_->state_width + working);
  }
  std::uint64_t bytes = has ? 0 : elements * model_->parameter_width;
  const std::uint64_t tiles = (elements + model_->tile_elements - 1) / model_->tile_elements;
  const TileRange shard = block_shard(tiles, block, pipeline, pipelines);
  const TileRange old = has ? block_shard(tiles, block, held.pipeline, held_pipelines_) : TileRange{};
  const auto up_to = [&](std::uint64_t tile) { return std::min(tile * model_->tile_elements, elements); };
  std::uint64_t missing = up_to(shard.end) - up_to(shard.begin);
  const std::uint32_t begin = std::max(shard.begin, old.begin);
  const std::uint32_t end = std::min(shard.end, old.end);
  if (begin < end) missing -= up_to(end) - up_to(begin);
  return bytes + missing * model_->state_width;
}

void Evaluator::measure_move(const Candidate& candidate) {
  const auto count = static_cast<std::uint32_t>(candidate.size());
  for (std::uint32_t p = 0; p < count; ++p) {
    std::uint32_t block = 0;
    for (std::size_t s = 0; s < candidate[p].workers.size(); ++s) {
      const std::uint32_t worker = candidate[p].workers[s];
      const Place& at = place_[worker];
      double seconds = 0;
      for (; block < candidate[p].ends[s]; ++block) {
        const std::uint64_t bytes = missing_bytes(worker, block, p, count);
        if (bytes == 0) continue;
        move_bytes_ += bytes;
        const bool near = host_holds_.contains((std::uint64_t{at.host} << 32) | block);
        const bool zone = zone_holds_.contains((std::uint64_t{at.zone} << 32) | block);
        const LinkProfile& link = near ? cluster_->same_host : (zone ? cluster_->same_zone : cluster_->between_zones);
        seconds += static_cast<double>(bytes) / link.bytes_per_s;
      }
      move_s_ = std::max(move_s_, seconds);
    }
  }
}

double Evaluator::worst_latency(const Candidate& candidate) const {
  double worst = 0;
  bool two_hosts = false;
  bool two_zones = false;
  const Place& first = place_[candidate.front().workers.front()];
  for (const Line& line : candidate) {
    for (const std::uint32_t worker : line.workers) {
      two_hosts = two_hosts || place_[worker].host != first.host;
      two_zones = two_zones || place_[worker].zone != first.zone;
    }
  }
  worst = two_zones   ? cluster_->between_zones.latency_s
          : two_hosts ? cluster_->same_zone.latency_s
                      : cluster_->same_host.latency_s;
  for (const Pair& pair : distant_pairs_) {
    const bool placed = line_of_[pair.a] != kNone && line_of_[pair.b] != kNone;
    if (!placed || line_of_[pair.a] == line_of_[pair.b]) continue;  // only owners of the same blocks exchange sums
    const BlockRange a = blocks_of_[pair.a], b = blocks_of_[pair.b];
    if (a.begin < b.end && b.begin < a.end) worst = std::max(worst, pair.link.latency_s);
  }
  return worst;
}

double Evaluator::exchange_seconds(const Candidate& candidate, const Traffic& traffic) const {
  double longest = 0;
  for (const Line& line : candidate) {
    for (const std::uint32_t worker : line.workers) {
      longest = std::max({longest, traffic.send_s[worker], traffic.receive_s[worker]});
    }
  }
  return longest > 0 ? longest + worst_latency(candidate) : 0;
}

void Evaluator::measure(const Candidate& candidate) {
  take_places(candidate);
  lines_nodes_.clear();
  all_nodes_ = 0;
  move_s_ = 0;
  move_bytes_ = 0;
  excess_ = 0;
  std::uint32_t slot = 0;
  for (const Line& line : candidate) {
    lines_nodes_.push_back(count_nodes({slot, slot + line.slots}));
    all_nodes_ += lines_nodes_.back();
    slot += line.slots;
    for (const std::uint32_t worker : line.workers) {
      reduce_.clear(worker);
      memory_gradient_[worker] = 0;
    }
  }
  measure_reduce(candidate);
  slot = 0;
  for (const Line& line : candidate) {
    measure_memory(line, slot);
    slot += line.slots;
  }
  if (options_->previous) measure_move(candidate);
  compute_s_ = compute_seconds(candidate);
  reduce_s_ = exchange_seconds(candidate, reduce_);
  gather_s_ = exchange_seconds(candidate, gather_);
}

// With a sharded optimizer all layouts keep it once.
bool Evaluator::state_kept_once(const Candidate& candidate) const {
  return candidate.size() == 1 && workers() > 1 && !options_->shard_optimizer;
}

double Evaluator::loss_seconds(const Candidate& candidate, double step_s) const {
  double refill = 0;  // of a worker's pipeline, on average
  for (const Line& line : candidate) refill += line.flow.fill * static_cast<double>(line.workers.size()) / workers();
  const double losses = options_->losses_per_s * step_s;
  return refill * losses / (1 + losses);
}

Score Evaluator::score(const Candidate& candidate) {
  measure(candidate);
  const double step = compute_s_ + reduce_s_ + gather_s_;
  const double penalty =
      kOneHostPenalty * blocks_on_one_host_ / blocks() + (state_kept_once(candidate) ? kKeptOncePenalty : 0);
  return {excess_, (step + move_s_ / options_->amortisation_steps) * (1 + penalty) + loss_seconds(candidate, step)};
}

Prediction Evaluator::predict(const Candidate& candidate) {
  Prediction prediction;
  prediction.cost_s = score(candidate).cost_s;
  prediction.compute_s = compute_s_;
  prediction.reduce_s = reduce_s_;
  prediction.gather_s = gather_s_;
  prediction.step_s = compute_s_ + reduce_s_ + gather_s_;
  prediction.move_s = move_s_;
  prediction.move_bytes = move_bytes_;
  prediction.state_kept_once = state_kept_once(candidate);
  prediction.loss_s = loss_seconds(candidate, prediction.step_s);
  prediction.on_one_host = static_cast<double>(blocks_on_one_host_) / blocks();
  double free_slots = 0;
  double rate = 0;
  for (const Line& line : candidate) {
    free_slots += line.flow.fill / line.flow.period - 1;
    rate += 1 / line.flow.period;
    const std::uint64_t micro_batches = std::uint64_t{line.slots} * per_slot();
    prediction.boundary_bytes += 2 * (line.workers.size() - 1) * micro_batches * model_->boundary_bytes;
    std::uint32_t begin = 0;
    for (std::size_t s = 0; s < line.workers.size(); ++s) {
      const std::uint32_t w = line.workers[s];
      WorkerPrediction worker{.worker = cluster_->workers[w].worker};
      worker.busy_s = block_seconds(begin, line.ends[s]) / speed_[w] * static_cast<double>(micro_batches);
      worker.state_bytes = memory_state_[w];
      worker.parameter_bytes = memory_parameter_[w];
      worker.activation_bytes = memory_activation_[w];
      worker.gradient_bytes = memory_gradient_[w];
      worker.boundary_bytes = memory_boundary_[w];
      worker.memory_bytes = needed_bytes(w);
      spend_spare_memory({begin, line.ends[s]}, w, useful(line, s), worker);
      worker.reduce_sent_bytes = reduce_.sent[w];
      worker.gather_sent_bytes = gather_.sent[w];
      prediction.reduce_bytes += reduce_.sent[w];
      prediction.gather_bytes += gather_.sent[w];
      prediction.workers.push_back(worker);
      begin = line.ends[s];
    }
  }
  const double ideal = (options_->micro_batches + free_slots) / rate;
  prediction.granularity_loss = std::max(0.0, compute_s_ / ideal - 1);
  std::ranges::sort(prediction.workers, {}, &WorkerPrediction::worker);
  return prediction;
}

Candidate Evaluator::compile(const LayoutPlan& layout) const {
  Candidate candidate;
  for (const PlanPipeline& pipeline : layout.pipelines) {
    Line line;
    line.slots = pipeline.slots.size();
    for (const PlanStage& stage : pipeline.stages) {
      const auto found = std::ranges::lower_bound(cluster_->workers, stage.worker, {}, &WorkerProfile::worker);
      line.workers.push_back(static_cast<std::uint32_t>(found - cluster_->workers.begin()));
      line.ends.push_back(stage.blocks.end);
    }
    time_line(line);
    candidate.push_back(std::move(line));
  }
  return candidate;
}

LayoutPlan Evaluator::layout(const Candidate& candidate) const {
  LayoutPlan layout;
  std::uint32_t slot = 0;
  for (const Line& line : candidate) {
    PlanPipeline pipeline;
    pipeline.slots = {slot, slot + line.slots};
    std::uint32_t begin = 0;
    for (std::size_t s = 0; s < line.workers.size(); ++s) {
      pipeline.stages.push_back({cluster_->workers[line.workers[s]].worker, {begin, line.ends[s]}});
      begin = line.ends[s];
    }
    layout.pipelines.push_back(std::move(pipeline));
    slot += line.slots;
  }
  return layout;
}

}  // namespace planaria::planner
