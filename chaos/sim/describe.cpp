#include "chaos/sim/describe.hpp"

#include <fmt/format.h>

#include <type_traits>

#include "common/overloaded.hpp"

namespace planaria::sim {
namespace {

template <class Ids>
std::string list(const Ids& ids) {
  std::string text;
  for (const auto& id : ids) text += fmt::format("{}{}", text.empty() ? "" : ",", id.value());
  return text;
}

std::string range(BlockRange blocks) {
  return fmt::format("[{},{})", blocks.begin, blocks.end);
}
std::string range(SlotRange slots) {
  return fmt::format("{}-{}", slots.begin, slots.end);
}
std::string range(TileRange tiles) {
  return fmt::format("{}-{}", tiles.begin, tiles.end);
}

std::string held(const Holdings& holdings) {
  std::string text = "states";
  for (const HeldState& state : holdings.states) {
    text += fmt::format(" {}:", state.stamp.value());
    for (const TileRange run : state.state) text += fmt::format("{},", range(run));
  }
  for (const HeldFragment& fragment : holdings.fragments) {
    text += fmt::format(" {}/{}#{}.{}", fragment.snapshot.step.value(), fragment.snapshot.layout.value(),
                        fragment.stripe, fragment.fragment);
  }
  return text;
}

std::string describe(const FragmentPart& part) {
  return fmt::format("{} of stripe {} of snapshot {} in view {}, bytes {}+{}", part.fragment, part.stripe,
                     part.snapshot.step.value(), part.snapshot.layout.value(), part.offset, part.bytes);
}

std::string describe(const BoundaryId& id) {
  return fmt::format("{} below block {} of slot {} position {}",
                     id.kind == BoundaryKind::activation ? "activation" : "gradient", id.block, id.item.slot,
                     id.item.position);
}

}  // namespace

std::string to_string(Step step) {
  return std::to_string(step.value());
}
std::string to_string(const std::optional<Step>& step) {
  return step ? to_string(*step) : "none";
}

std::string describe(const DataMeta& meta) {
  return std::visit(
      Overloaded{
          [](const Piece& m) {
            return fmt::format("Piece step {} attempt {} blocks {} slots {}", m.step.value(), m.attempt,
                               range(m.blocks), range(m.node.slots()));
          },
          [](const BoundaryRequest& m) {
            return fmt::format("BoundaryRequest step {} attempt {} slots {} from {}", m.step.value(), m.attempt,
                               range(m.slots), describe(m.from));
          },
          [](const Boundary& m) {
            return fmt::format("Boundary step {} attempt {} {}", m.step.value(), m.attempt, describe(m.id));
          },
          [](const Reduced& m) { return fmt::format("Reduced step {} attempt {}", m.step.value(), m.attempt); },
          [](const Gate& m) { return fmt::format("Gate step {} attempt {}", m.step.value(), m.attempt); },
          [](const Ack& m) { return fmt::format("Ack step {}", m.step.value()); },
          [](const StateRequest& m) {
            return fmt::format("StateRequest {} tiles {}", m.stamp.value(), range(m.tiles));
          },
          [](const StateTiles& m) {
            return fmt::format("StateTiles {} tiles {}{}", m.stamp.value(), range(m.tiles),
                               m.available ? "" : " (not held)");
          },
          [](const Parameters& m) { return fmt::format("Parameters step {}", m.step.value()); },
          [](const FragmentData& m) { return "FragmentData " + describe(m.part); },
          [](const StripeWord& m) {
            return fmt::format("StripeWord {} of stripe {} of snapshot {} in view {}",
                               m.status == StripeStatus::stored ? "stored" : "placed", m.stripe,
                               m.snapshot.step.value(), m.snapshot.layout.value());
          },
          [](const FragmentRequest& m) { return "FragmentRequest " + describe(m.part); },
          [](const FragmentReply& m) {
            return "FragmentReply " + describe(m.part) + (m.available ? "" : " (not held)");
          },
      },
      meta);
}

std::string describe(const WorkerMessage& message) {
  return std::visit(
      Overloaded{
          [](const Register& m) {
            return fmt::format("Register {} {}",
                               m.identity ? fmt::format("as {}.{} view {} prepared {}", m.identity->worker.value(),
                                                        m.identity->incarnation.value(), m.identity->view.value(),
                                                        m.identity->prepared.value())
                                          : "anew",
                               held(m.holdings));
          },
          [](const Heartbeat& m) { return fmt::format("Heartbeat view {} step {}", m.view.value(), m.step.value()); },
          [](const Report& m) {
            std::string stages;
            for (const StageProgress& stage : m.stages) {
              stages += fmt::format(" {}x{} done {}", range(stage.work.blocks), range(stage.work.slots), stage.done);
            }
            return fmt::format("Report for {} in view {}: {}, step {} attempt {}, stages{}, reduced {}{}",
                               m.prepare.value(), m.view.value(), held(m.holdings), m.work_step.value(), m.attempt,
                               stages, m.reduced.size(), m.alarm ? ", alarm" : "");
          },
          [](const BoundaryPassed& m) {
            return fmt::format("BoundaryPassed {} step {}", m.prepare.value(), m.step.value());
          },
          [](const Evidence& m) {
            return fmt::format("Evidence {} about {} step {}", planaria::to_string(m.kind), m.about.value(),
                               m.step.value());
          },
          [](const StepCommitted& m) {
            return fmt::format("StepCommitted {} view {}", m.step.value(), m.view.value());
          },
          [](const SnapshotSaved& m) {
            return fmt::format("SnapshotSaved step {} {}", m.snapshot.step.value(), m.ok ? "" : m.detail);
          },
          [](const AttachNotice& m) { return fmt::format("AttachNotice {} bytes", m.bytes); },
          [](const RecomputeNotice& m) { return fmt::format("RecomputeNotice step {}", m.step.value()); },
          [](const CheckpointSaved& m) {
            return fmt::format("CheckpointSaved {}{}", m.step.value(), m.ok ? "" : " failed");
          },
          [](const DrainRequest&) { return std::string("DrainRequest"); },
          [](const Done& m) { return fmt::format("Done view {}", m.view.value()); },
      },
      message);
}

std::string describe(const ViewRecord& record) {
  std::string members;
  for (const Member& member : record.members) {
    members += fmt::format(" {}.{}", member.worker.value(), member.incarnation.value());
  }
  std::string stages;
  for (const StageAssignment& stage : record.resume.stages) {
    stages += fmt::format(" {}:{}x{}{}", stage.worker.value(), range(stage.work.blocks), range(stage.work.slots),
                          stage.recompute ? " anew" : "");
  }
  std::string snapshots;
  for (const Stripe& stripe : record.snapshots.stripes) {
    snapshots += " [";
    for (std::size_t i = 0; i < stripe.fragments.size(); ++i) {
      const StripeFragment& fragment = stripe.fragments[i];
      snapshots += fmt::format("{}{}", i == 0 ? "" : i == stripe.data ? " + " : " ", fragment.keeper.value());
      for (const TileRange run : fragment.tiles) snapshots += fmt::format(":{}", range(run));
    }
    snapshots += "]";
  }
  std::string fetches;
  for (const StateFetch& fetch : record.resume.fetches) {
    fetches += fmt::format(" {}<-{}{}:{}{}", fetch.worker.value(),
                           fetch.source == StateSource::peer         ? "w"
                           : fetch.source == StateSource::checkpoint ? "checkpoint"
                                                                     : "seed",
                           fetch.source == StateSource::peer ? std::to_string(fetch.from.value()) : "",
                           range(fetch.tiles), fetch.parameters_only ? "p" : "");
  }
  for (const FragmentRebuild& rebuild : record.resume.rebuilds) {
    fetches += fmt::format(" {}<-fragments:", rebuild.worker.value());
    for (const TileRange run : rebuild.tiles) fetches += fmt::format("{},", range(run));
  }
  return fmt::format("view {} members{}; resume step {} attempt {} tier {}{}{}{}; stages{}; snapshots{}; fetches{}; {}",
                     record.view.value(), members, record.resume.step.value(), record.resume.attempt,
                     record.resume.tier, record.resume.discard ? " discard" : "",
                     record.resume.skip_update ? " skip" : "", record.resume.compute ? "" : " no compute", stages,
                     snapshots, fetches, record.reason);
}

std::string describe(const CoordinatorMessage& message) {
  return std::visit(
      Overloaded{
          [](const Welcome& m) { return fmt::format("Welcome {}.{}", m.worker.value(), m.incarnation.value()); },
          [](const Refused& m) { return fmt::format("Refused: {}", m.reason); },
          [](const Prepare& m) {
            return fmt::format("Prepare {} excluding [{}]{}", m.view.value(), list(m.excluded),
                               m.boundary ? fmt::format(" boundary {}", m.boundary->value()) : "");
          },
          [](const CommitView& m) {
            return fmt::format("CommitView {} as a change of {}", m.packed->view.value(), m.packed->base.value());
          },
          [](const Fenced& m) { return fmt::format("Fenced: {}", m.reason); },
          [](const Released&) { return std::string("Released"); },
          [](const Probe&) { return std::string("Probe"); },
          [](const Finish& m) { return fmt::format("Finish: {}", m.reason); },
      },
      message);
}

std::string describe(const LogRecord& record) {
  std::string text = record_name(record);
  if (const auto* prepared = std::get_if<log_record::Prepared>(&record)) {
    text += fmt::format(" {} excluding [{}]: {}", prepared->view.value(), list(prepared->excluded), prepared->reason);
  } else if (const auto* committed = std::get_if<log_record::Committed>(&record)) {
    text += fmt::format(" {}", describe(committed->record));
  } else if (const auto* started = std::get_if<log_record::GenerationStarted>(&record)) {
    text += fmt::format(" {}", started->generation.value());
  } else if (const auto* accepted = std::get_if<log_record::WorkerAccepted>(&record)) {
    text += fmt::format(" {}.{}", accepted->worker.value(), accepted->incarnation.value());
  } else if (const auto* step = std::get_if<log_record::StepLogged>(&record)) {
    text += fmt::format(" {}", step->step.value());
  } else if (const auto* waiting = std::get_if<log_record::WaitingStarted>(&record)) {
    text += fmt::format(": {}", waiting->reason);
  } else if (const auto* numeric = std::get_if<log_record::NumericDecision>(&record)) {
    text += fmt::format(" step {} attempt {}: {}", numeric->step.value(), numeric->attempt, numeric->decision);
  } else if (const auto* differ = std::get_if<log_record::Disagreement>(&record)) {
    text += fmt::format(" about the {} of step {}: {}", differ->gradient ? "gradient" : "state", differ->step.value(),
                        differ->decision);
  }
  return text;
}

std::string describe(const WorkerAction& action) {
  using namespace worker_action;  // NOLINT
  return std::visit(
      Overloaded{
          [](const ComputeMicroBatch& a) {
            return fmt::format("ComputeMicroBatch step {} attempt {} blocks {} slot {} position {} {}", a.step.value(),
                               a.attempt, range(a.work.blocks), a.item.slot, a.item.position,
                               a.pass == Pass::both      ? "both ways"
                               : a.pass == Pass::forward ? "forward"
                                                         : "backward");
          },
          [](const Rehearse& a) { return fmt::format("Rehearse step {}", a.step.value()); },
          [](const FoldNodes& a) { return fmt::format("FoldNodes step {} ({})", a.step.value(), a.additions.size()); },
          [](const ReduceShards& a) {
            std::string inputs;
            for (const auto& input : a.inputs) inputs += fmt::format(" {}", range(input.node.node.slots()));
            return fmt::format("ReduceShards step {} from{}", a.step.value(), inputs);
          },
          [](const StoreReduced& a) { return fmt::format("StoreReduced step {}", a.step.value()); },
          [](const MeasureGradient& a) { return fmt::format("MeasureGradient step {}", a.step.value()); },
          [](const ApplyUpdate& a) {
            return fmt::format("ApplyUpdate step {}{}", a.step.value(), a.skip ? " skip" : "");
          },
          [](const StoreState& a) { return fmt::format("StoreState {} tiles {}", a.stamp.value(), range(a.tiles)); },
          [](const CopyTied& a) { return fmt::format("CopyTied {}", a.stamp.value()); },
          [](const StoreParameters& a) { return fmt::format("StoreParameters {}", a.stamp.value()); },
          [](const InitializeState&) { return std::string("InitializeState"); },
          [](const LoadCheckpoint& a) { return fmt::format("LoadCheckpoint {}", a.step.value()); },
          [](const DropState& a) { return fmt::format("DropState before {}", a.before.value()); },
          [](const RevertState& a) { return fmt::format("RevertState {}", to_string(a.stamp)); },
          [](const ListCheckpoints&) { return std::string("ListCheckpoints"); },
          [](const HashState& a) { return fmt::format("HashState {}", a.stamp.value()); },
          [](const HashWeights& a) { return fmt::format("HashWeights {}", a.step.value()); },
          [](const BeginCheckpoint& a) { return fmt::format("BeginCheckpoint {}", a.step.value()); },
          [](const AddToCheckpoint& a) {
            return fmt::format("AddToCheckpoint {} tiles {}", a.step.value(), range(a.tiles));
          },
          [](const WriteCheckpoint& a) { return fmt::format("WriteCheckpoint {}", a.step.value()); },
          [](const SnapshotState& a) {
            return fmt::format("SnapshotState {} for keeper {}", a.stamp.value(), a.keeper.value());
          },
          [](const AddFragmentPart& a) { return "AddFragmentPart " + describe(a.part); },
          [](const StoreFragmentPart& a) { return "StoreFragmentPart " + describe(a.part); },
          [](const KeepFragments& a) { return fmt::format("KeepFragments {}", a.whole.size()); },
          [](const RebuildState& a) {
            return fmt::format("RebuildState {} fragment {} of stripe {}", a.snapshot.step.value(), a.fragment,
                               a.stripe);
          },
          [](const SaveSnapshot& a) { return fmt::format("SaveSnapshot {}", a.snapshot.step.value()); },
          [](const AttachState& a) {
            return fmt::format("AttachState {} tiles {} to {}", a.stamp.value(), a.tiles.begin, a.tiles.end);
          },
          [](const ReleaseStep& a) { return fmt::format("ReleaseStep {}", a.step.value()); },
          [](const KeepStep& a) { return fmt::format("KeepStep {}", a.step.value()); },
          [](const ReturnToStep& a) { return fmt::format("ReturnToStep {}", a.step.value()); },
          [](const EnterView& a) { return fmt::format("EnterView {}", a.view.value()); },
          [](const FenceView& a) { return fmt::format("FenceView {} closing [{}]", a.view.value(), list(a.excluded)); },
          [](const SendPiece& a) { return fmt::format("send {} to {}", describe(DataMeta(a.meta)), a.to.value()); },
          [](const SendBoundary& a) { return fmt::format("send {} to {}", describe(DataMeta(a.meta)), a.to.value()); },
          [](const SendParameters& a) {
            return fmt::format("send {} to {}", describe(DataMeta(a.meta)), a.to.value());
          },
          [](const SendReduced& a) { return fmt::format("send {} to {}", describe(DataMeta(a.meta)), a.to.value()); },
          [](const SendSmall& a) { return fmt::format("send {} to {}", describe(a.meta), a.to.value()); },
          [](const SendFragment& a) {
            return fmt::format("send fragment {} of stripe {} to {}", a.fragment, a.stripe, a.to.value());
          },
          [](const SendParity& a) { return fmt::format("send parity {} to {}", describe(a.part), a.to.value()); },
          [](const SendFragmentReply& a) {
            return fmt::format("send {} to {}", describe(DataMeta(a.meta)), a.to.value());
          },
          [](const SendState& a) { return fmt::format("send {} to {}", describe(DataMeta(a.meta)), a.to.value()); },
          [](const SendControl& a) { return fmt::format("tell {}", describe(a.message)); },
          [](const Note& a) { return fmt::format("note: {}", a.text); },
          [](const Stop& a) { return fmt::format("Stop {}: {}", a.success ? "well" : "failed", a.reason); },
      },
      action);
}

bool is_routine(const WorkerMessage& message) {
  return std::holds_alternative<Heartbeat>(message);
}

}  // namespace planaria::sim
