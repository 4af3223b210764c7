#include "proto/control.hpp"

namespace planaria {

const char* to_string(Phase phase) {
  switch (phase) {
    case Phase::idle:
      return "idle";
    case Phase::fetch:
      return "fetch";
    case Phase::forward:
      return "forward";
    case Phase::backward:
      return "backward";
    case Phase::reduce:
      return "reduce";
    case Phase::gate:
      return "gate";
    case Phase::update:
      return "update";
    case Phase::commit:
      return "commit";
    case Phase::finished:
      return "finished";
    case Phase::count_:
      break;
  }
  return "unknown";
}

const char* to_string(EvidenceKind kind) {
  switch (kind) {
    case EvidenceKind::peer_unreachable:
      return "peer unreachable";
    case EvidenceKind::corrupt_payload:
      return "corrupt payload";
    case EvidenceKind::nonfinite:
      return "nonfinite gradient";
    case EvidenceKind::gradient_mismatch:
      return "gradient mismatch";
    case EvidenceKind::state_mismatch:
      return "state mismatch";
    case EvidenceKind::fetch_failed:
      return "state fetch failed";
    case EvidenceKind::count_:
      break;
  }
  return "unknown";
}

}  // namespace planaria
