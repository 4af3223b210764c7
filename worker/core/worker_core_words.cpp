// What each member says to all others, gates and acknowledgements, and passes on for them.
#include <algorithm>
#include <utility>

#include "worker/core/worker_core.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

namespace {

// A message of many words is told in several of about this size: receivers bound what they decode.
constexpr std::size_t kWordsBytes = std::size_t{4} << 20;

std::size_t bytes_of(const GateWord& word) {
  return sizeof(GateWord) + word.tiles.size() * sizeof(TileRange) + word.sums.size() * sizeof(double);
}

std::size_t bytes_of(const AckWord& word) {
  return sizeof(AckWord) + word.hashes.size() * sizeof(BlockHash);
}

}  // namespace

DataMeta WorkerCore::message_of(std::vector<GateWord> words) const {
  return Gate{work_.step, work_.attempt, std::move(words), work_.known_losses()};
}

DataMeta WorkerCore::message_of(std::vector<AckWord> words) const {
  return Ack{work_.step, std::move(words)};
}

template <class Word>
bool WorkerCore::all_said(const Words<Word>& words) const {
  return words.of.size() == view_->members.size();
}

template <class Word>
void WorkerCore::tell(std::span<const WorkerId> to, const Words<Word>& words, std::span<const WorkerId> of) {
  std::vector<Word> said;
  std::size_t bytes = 0;
  const auto send = [&] {
    const DataMeta message = message_of(std::exchange(said, {}));
    for (const WorkerId worker : to) {
      if (worker != self()) emit(SendSmall{worker, view_->view, message});
    }
    bytes = 0;
  };
  for (const WorkerId worker : of) {
    const Word& word = words.of.at(worker);
    if (bytes > 0 && bytes + bytes_of(word) > kWordsBytes) send();
    bytes += bytes_of(word);
    said.push_back(word);
  }
  send();
}

// Each word goes once to the own relay, from there with its group's to the other relays, and from each to its group.
template <class Word>
void WorkerCore::pass_on(Words<Word>& words) {
  if (!words.of.contains(self())) return;
  const WorkerId relay = relays_->relay_of(self());
  const bool relays = relay == self();
  const auto group = relays ? relays_->group_of(relay) : std::span(&identity_->worker, 1);
  const auto said = [&](WorkerId worker) { return words.of.contains(worker); };
  if (!words.own_passed && std::ranges::all_of(group, said)) {
    words.own_passed = true;
    tell(relays ? relays_->relays() : std::vector{relay}, words, group);
  }
  if (relays && group.size() > 1 && !words.all_passed && all_said(words)) {
    words.all_passed = true;
    tell(group, words, relays_->members());
  }
}

// Whose message is missing, of those that this member hears from.
template <class Word>
std::optional<WorkerId> WorkerCore::owes(const Words<Word>& words) const {
  if (all_said(words)) return std::nullopt;
  const WorkerId relay = relays_->relay_of(self());
  if (relay != self()) return relay;
  const auto silent = [&](WorkerId worker) { return !words.of.contains(worker); };
  for (const WorkerId worker : relays_->group_of(relay)) {
    if (silent(worker)) return worker;
  }
  const std::vector<WorkerId> relays = relays_->relays();
  const auto other = std::ranges::find_if(relays, silent);
  return other == relays.end() ? std::nullopt : std::optional(*other);
}

template bool WorkerCore::all_said(const Words<AckWord>& words) const;
template void WorkerCore::pass_on(Words<GateWord>& words);
template void WorkerCore::pass_on(Words<AckWord>& words);
template std::optional<WorkerId> WorkerCore::owes(const Words<GateWord>& words) const;
template std::optional<WorkerId> WorkerCore::owes(const Words<AckWord>& words) const;

bool WorkerCore::may_tell(WorkerId from, WorkerId of) const {
  return view_->has(of) && relays_->passes_on(from, self(), of);
}

void WorkerCore::data(WorkerId from, const Gate& meta, const PayloadRef&) {
  static const TileSet kNone;
  if (meta.attempt != work_.attempt) return refuse("a gate of another attempt");
  for (const GateWord& word : meta.words) {
    if (!may_tell(from, word.worker)) return refuse("a gate that isn't its sender's to tell");
    const TileSet& expected = is_epilogue() ? kNone : duties_->first_kept_by(word.worker);
    if (word.tiles != expected.runs() || word.sums.size() != expected.size()) {
      return refuse("a gate of other tiles than its worker has to tell of");
    }
    if (word.told != hash_of_sums(word.sums)) {
      report_evidence(EvidenceKind::corrupt_payload, from, "it told sums that don't match their worker's hash");
      return refuse("a gate with damaged sums");
    }
  }
  for (const GateWord& word : meta.words) exchange_.gates.of[word.worker] = word;
  store_losses(meta.losses);
  ++progress_;
}

void WorkerCore::data(WorkerId from, const Ack& meta, const PayloadRef&) {
  for (const AckWord& word : meta.words) {
    if (!may_tell(from, word.worker)) return refuse("an acknowledgement that isn't its sender's to tell");
    if (std::ranges::any_of(word.hashes, [this](const BlockHash& hash) { return hash.block >= block_count(); })) {
      return refuse("an acknowledgement of unknown blocks");
    }
  }
  for (const AckWord& word : meta.words) exchange_.acks.of[word.worker] = word;
  ++progress_;
}

}  // namespace planaria
