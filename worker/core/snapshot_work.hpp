// A keeper's part in making one snapshot whole: its host's tiles are data fragments of some stripes, and of others it
// keeps parity.
//
// In each stripe the keeper of the first parity fragment is the encoder. Those of the data send it theirs in parts; it
// adds them up, keeps the first sum, and sends the others on as far as they are whole. Who has all of its parity
// tells the encoder, and the encoder tells all of the stripe that it is placed. Of k data and m parity fragments
// k + m - 1 travel, the fewest that bring each of k sources to m places. Parts that overtake others wait for those;
// what is lost with a connection is made good by a new view, in which all begins anew. A stripe without parity is
// placed once its tiles are here.
//
// Thread contract: owned by the keeper's core.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/snapshot_layout.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"

namespace planaria {

namespace snapshot_action {

// Carried out in order; sends take their place in it. AddPart and StorePart are of parts that were taken, each once.
struct SendFragment {  // an own data fragment, whole, in parts as large as the shell likes
  WorkerId to;
  SnapshotName snapshot;
  std::uint32_t stripe = 0;
  std::uint32_t fragment = 0;
  bool operator==(const SendFragment&) const = default;
};
struct AddPart {  // to the stripe's sums, which begin as zeros
  FragmentPart part;
  bool operator==(const AddPart&) const = default;
};
struct SendParity {  // a part of another one's sum, which is whole
  WorkerId to;
  FragmentPart part;
  bool operator==(const SendParity&) const = default;
};
struct StorePart {  // of the own parity fragment
  FragmentPart part;
  bool operator==(const StorePart&) const = default;
};
struct SendWord {
  WorkerId to;
  StripeWord word;
  bool operator==(const SendWord&) const = default;
};

}  // namespace snapshot_action

using SnapshotAction = std::variant<snapshot_action::SendFragment, snapshot_action::AddPart,
                                    snapshot_action::SendParity, snapshot_action::StorePart, snapshot_action::SendWord>;

class SnapshotWork {
 public:
  // The layout outlives this. Precondition: check_snapshot_layout() holds.
  SnapshotWork(const StateMap& map, const SnapshotLayout& layout, SnapshotName name, WorkerId self);

  [[nodiscard]] const SnapshotName& name() const { return name_; }
  // Tiles of the snapshot's step that are in own fragments: the host's workers hand these over.
  [[nodiscard]] const TileSet& own() const { return own_; }
  // Every stripe in which it has a fragment is placed.
  [[nodiscard]] bool placed() const;
  // Parity that is here as a whole.
  [[nodiscard]] std::vector<HeldFragment> whole() const;
  // Whose message a stripe lacks; none: all are placed, or wait for own tiles.
  [[nodiscard]] std::optional<WorkerId> waiting_for() const;

  // Tiles are there, sealed.
  [[nodiscard]] std::vector<SnapshotAction> seal(const TileSet& tiles);
  // corrupt: the message fits no stripe, or not what came before it; nothing was changed.
  [[nodiscard]] Result<std::vector<SnapshotAction>> take(WorkerId from, const FragmentPart& part);
  [[nodiscard]] Result<std::vector<SnapshotAction>> take(WorkerId from, const StripeWord& word);
  // A part that was to be added or stored is. Precondition: each such once.
  [[nodiscard]] std::vector<SnapshotAction> stored(const FragmentPart& part);

 private:
  // What arrives of a fragment.
  struct Flow {
    std::uint64_t arrived = 0;                     // from its start
    std::map<std::uint64_t, std::uint64_t> early;  // bytes, by offset: what lies beyond
  };
  // A stripe in which it has a fragment.
  struct Part {
    std::uint32_t stripe = 0;
    std::uint32_t fragment = 0;
    std::uint64_t bytes = 0;          // of the longest fragment
    std::vector<std::uint64_t> data;  // encoder: bytes of each data fragment
    std::vector<Flow> flows;          // encoder: of each data fragment; else of the own parity
    std::uint64_t summed = 0;         // encoder: so far the sums are whole
    std::uint64_t missing = 0;        // bytes of parts that aren't added or stored yet
    std::vector<bool> stored;         // encoder: by parity fragment
    bool sent = false;                // the own data
    bool placed = false;
  };
  [[nodiscard]] const Stripe& stripe(const Part& part) const { return layout_.stripes[part.stripe]; }
  [[nodiscard]] WorkerId encoder(const Part& part) const { return stripe(part).fragments[stripe(part).data].keeper; }
  [[nodiscard]] bool encodes(const Part& part) const { return part.fragment == stripe(part).data; }
  // Its own parity fragment, if it has one, is here as a whole.
  [[nodiscard]] bool has_parity(const Part& part) const {
    return part.fragment >= stripe(part).data && part.missing == 0;
  }
  [[nodiscard]] Part* find(std::uint32_t stripe);
  void sums_advance(Part& part, std::vector<SnapshotAction>& actions);
  void consider_placed(Part& part, std::vector<SnapshotAction>& actions);

  const SnapshotLayout& layout_;
  const SnapshotName name_;
  TileSet own_, sealed_;
  std::vector<Part> parts_;
};

}  // namespace planaria
