#include "proto/mutation.hpp"

namespace planaria {

const char* to_string(Mutation mutation) {
  switch (mutation) {
    case Mutation::release_before_commit:
      return "release_before_commit";
    case Mutation::commit_without_acks:
      return "commit_without_acks";
    case Mutation::exit_before_finished:
      return "exit_before_finished";
    case Mutation::serve_torn_state:
      return "serve_torn_state";
    case Mutation::reduce_incomplete_cover:
      return "reduce_incomplete_cover";
    case Mutation::add_twice:
      return "add_twice";
    case Mutation::stale_report:
      return "stale_report";
    case Mutation::replace_local_state:
      return "replace_local_state";
    case Mutation::accept_stale_view:
      return "accept_stale_view";
    case Mutation::drop_future_view:
      return "drop_future_view";
    case Mutation::reuse_prepare_number:
      return "reuse_prepare_number";
    case Mutation::accept_old_generation:
      return "accept_old_generation";
    case Mutation::gate_without_all:
      return "gate_without_all";
    case Mutation::gate_without_snapshot:
      return "gate_without_snapshot";
    case Mutation::trust_old_lineage:
      return "trust_old_lineage";
    case Mutation::free_finished_work:
      return "free_finished_work";
    case Mutation::forget_fenced_state:
      return "forget_fenced_state";
    case Mutation::release_drained_early:
      return "release_drained_early";
    case Mutation::joiner_votes_without_state:
      return "joiner_votes_without_state";
    case Mutation::repeat_finished_work:
      return "repeat_finished_work";
    case Mutation::fold_out_of_order:
      return "fold_out_of_order";
    case Mutation::announce_before_sync:
      return "announce_before_sync";
    case Mutation::lease_ignored:
      return "lease_ignored";
    case Mutation::nonfinite_at_once:
      return "nonfinite_at_once";
    case Mutation::ignore_different_sums:
      return "ignore_different_sums";
    case Mutation::trust_majority:
      return "trust_majority";
    case Mutation::count_:
      break;
  }
  return "unknown";
}

}  // namespace planaria
