#include "worker/core/snapshot_work.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include "common/philox.hpp"
#include "storage/erasure_code.hpp"
#include "tests/small_model.hpp"

namespace planaria {
namespace {

using Bytes = std::vector<std::byte>;

constexpr SnapshotName kName{Step(7), ViewNumber(3)};

// Keepers of hosts with random tiles, and a network in which any message may overtake the others.
class Keepers {
 public:
  Keepers(std::uint32_t count, SnapshotShape shape, std::uint64_t seed)
      : random_(philox_key(seed, RandomPurpose::tests)) {
    std::vector<ProtectedHost> hosts;
    for (std::uint32_t i = 0; i < count; ++i) hosts.push_back({WorkerId(i), "", {}});
    for (std::uint32_t tile = 0; tile < map_.tiles_with_state().end; ++tile) {
      hosts[draw(count)].tiles.add({tile, tile + 1});
      for (std::uint64_t i = 0; i < kTensorsOfState * map_.bytes({tile, tile + 1}); ++i) {
        values_[tile].push_back(static_cast<std::byte>(random_.next_u32()));
      }
    }
    layout_ = place_snapshots(map_, hosts, shape);
    for (std::uint32_t i = 0; i < count; ++i) keepers_.emplace_back(map_, layout_, kName, WorkerId(i));
    fragments_.resize(layout_.stripes.size());
    for (std::size_t s = 0; s < layout_.stripes.size(); ++s) {
      fragments_[s].resize(layout_.stripes[s].fragments.size(), Bytes(stripe_bytes(map_, layout_.stripes[s])));
    }
  }

  [[nodiscard]] std::uint32_t draw(std::uint32_t below) { return random_.next_u32() % below; }
  [[nodiscard]] SnapshotWork& operator[](std::uint32_t i) { return keepers_[i]; }
  [[nodiscard]] const SnapshotLayout& layout() const { return layout_; }
  [[nodiscard]] bool all_placed() const { return std::ranges::all_of(keepers_, &SnapshotWork::placed); }
  [[nodiscard]] std::uint64_t sent_bytes() const { return sent_bytes_; }

  // Hosts hand their tiles over one by one, at any time between others' messages.
  void run() {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> to_seal;  // keeper, tile
    for (std::uint32_t i = 0; i < keepers_.size(); ++i) {
      for (const TileRange& run : keepers_[i].own().runs()) {
        for (std::uint32_t tile = run.begin; tile < run.end; ++tile) to_seal.emplace_back(i, tile);
      }
    }
    while (!to_seal.empty() || !sent_.empty()) {
      if (const std::uint32_t which = draw(static_cast<std::uint32_t>(to_seal.size() + sent_.size()));
          which < to_seal.size()) {
        const auto [keeper, tile] = to_seal[which];
        to_seal.erase(to_seal.begin() + which);
        carry_out(keeper, keepers_[keeper].seal(TileSet(TileRange{tile, tile + 1})));
      } else {
        std::swap(sent_[which - to_seal.size()], sent_.back());
        const Message message = std::move(sent_.back());
        sent_.pop_back();
        deliver(message);
      }
    }
  }

  void expect_told_parity() const {
    std::size_t told = 0, placed = 0;
    for (const SnapshotWork& keeper : keepers_) told += keeper.whole().size();
    for (const Stripe& stripe : layout_.stripes) placed += stripe.parity();
    EXPECT_EQ(told, placed);
  }
  // What the parity of each stripe holds, against the code's of its data.
  void expect_right_parity() const {
    for (std::size_t s = 0; s < layout_.stripes.size(); ++s) {
      const Stripe& stripe = layout_.stripes[s];
      std::vector<Bytes> data, parity(stripe.parity(), Bytes(stripe_bytes(map_, stripe)));
      for (std::uint32_t i = 0; i < stripe.data; ++i) {
        data.push_back(data_of(stripe.fragments[i]));
        data.back().resize(parity[0].size());
      }
      const auto code = ErasureCode::make(stripe.data, stripe.parity());
      code->encode().write(std::vector<FragmentBytes>(data.begin(), data.end()),
                           std::vector<FragmentBuffer>(parity.begin(), parity.end()));
      for (std::uint32_t i = 0; i < stripe.parity(); ++i) {
        EXPECT_EQ(fragments_[s][stripe.data + i], parity[i]) << "stripe " << s << " parity " << i;
      }
    }
  }

 private:
  struct Message {
    WorkerId from, to;
    std::variant<FragmentPart, StripeWord> meta;
    Bytes bytes;
  };

  [[nodiscard]] Bytes data_of(const StripeFragment& fragment) const {
    Bytes bytes;
    for (const TileRange& run : fragment.tiles) {
      for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
        bytes.insert(bytes.end(), values_.at(tile).begin(), values_.at(tile).end());
      }
    }
    return bytes;
  }

  void send(std::uint32_t from, WorkerId to, std::variant<FragmentPart, StripeWord> meta, Bytes bytes) {
    sent_bytes_ += bytes.size();
    sent_.push_back({WorkerId(from), to, meta, std::move(bytes)});
  }

  void carry_out(std::uint32_t at, const std::vector<SnapshotAction>& actions) {
    using namespace snapshot_action;
    std::vector<FragmentPart> later;
    const auto received = [&](const FragmentPart& part) {
      const auto found = arrived_.find({at, part});
      const Bytes bytes = std::move(found->second);
      arrived_.erase(found);
      return bytes;
    };
    for (const SnapshotAction& action : actions) {
      if (const auto* own = std::get_if<SendFragment>(&action)) {
        const Bytes data = data_of(layout_.stripes[own->stripe].fragments[own->fragment]);
        for (std::size_t offset = 0; offset < data.size();) {
          const std::size_t size = std::min<std::size_t>(data.size() - offset, 4 * (1 + draw(2000)));
          const auto begin = data.begin() + static_cast<std::ptrdiff_t>(offset);
          send(at, own->to, FragmentPart{kName, own->stripe, own->fragment, offset, size},
               Bytes(begin, begin + static_cast<std::ptrdiff_t>(size)));
          offset += size;
        }
      } else if (const auto* add = std::get_if<AddPart>(&action)) {
        const Stripe& stripe = layout_.stripes[add->part.stripe];
        // The encoder's sums; those of others are sent from there.
        auto& sums = sums_[add->part.stripe];
        sums.resize(stripe.parity(), Bytes(stripe_bytes(map_, stripe)));
        std::vector<FragmentBuffer> to;
        for (Bytes& sum : sums) to.push_back(std::span(sum).subspan(add->part.offset, add->part.bytes));
        ErasureCode::make(stripe.data, stripe.parity())->encode().add(add->part.fragment, received(add->part), to);
        fragments_[add->part.stripe][stripe.data] = sums[0];
        later.push_back(add->part);
      } else if (const auto* parity = std::get_if<SendParity>(&action)) {
        const Bytes& sum =
            sums_[parity->part.stripe][parity->part.fragment - layout_.stripes[parity->part.stripe].data];
        const auto begin = sum.begin() + static_cast<std::ptrdiff_t>(parity->part.offset);
        send(at, parity->to, parity->part, Bytes(begin, begin + static_cast<std::ptrdiff_t>(parity->part.bytes)));
      } else if (const auto* store = std::get_if<StorePart>(&action)) {
        std::ranges::copy(received(store->part), fragments_[store->part.stripe][store->part.fragment].begin() +
                                                     static_cast<std::ptrdiff_t>(store->part.offset));
        later.push_back(store->part);
      } else if (const auto* word = std::get_if<SendWord>(&action)) {
        send(at, word->to, word->word, {});
      }
    }
    for (const FragmentPart& part : later) carry_out(at, keepers_[at].stored(part));
  }

  void deliver(const Message& message) {
    SnapshotWork& keeper = keepers_[message.to.value()];
    const auto actions = std::visit([&](const auto& meta) { return keeper.take(message.from, meta); }, message.meta);
    ASSERT_TRUE(actions) << actions.error().message();
    if (const auto* part = std::get_if<FragmentPart>(&message.meta)) {
      arrived_[{message.to.value(), *part}] = message.bytes;
    }
    carry_out(message.to.value(), *actions);
  }

  const StateMap map_{small_model(2), 128};
  PhiloxStream random_;
  std::map<std::uint32_t, Bytes> values_;  // by tile
  SnapshotLayout layout_;
  std::deque<SnapshotWork> keepers_;
  std::vector<std::vector<Bytes>> fragments_;         // by stripe and fragment: parity as it is kept
  std::map<std::uint32_t, std::vector<Bytes>> sums_;  // at encoders, by stripe
  std::vector<Message> sent_;
  std::map<std::pair<std::uint32_t, FragmentPart>, Bytes> arrived_;  // and wait for their turn
  std::uint64_t sent_bytes_ = 0;
};

TEST(SnapshotWork, EndsPlacedWithTheCodesParityInAnyOrderOfMessages) {
  fmt::print("seeds 1 to 60\n");
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const auto hosts = static_cast<std::uint32_t>(2 + seed % 6);
    const SnapshotShape shape{static_cast<std::uint32_t>(1 + seed % 4), static_cast<std::uint32_t>(1 + seed / 2 % 3)};
    SCOPED_TRACE(fmt::format("seed {}: {} hosts, {}+{}", seed, hosts, shape.data, shape.parity));
    Keepers keepers(hosts, shape, seed);
    keepers.run();
    EXPECT_TRUE(keepers.all_placed());
    keepers.expect_right_parity();
    keepers.expect_told_parity();
  }
}

TEST(SnapshotWork, TravelsAsFewBytesAsBringEachSourceToEachPlace) {
  Keepers keepers(6, {4, 2}, 1);
  keepers.run();
  const StateMap map(small_model(2), 128);
  std::uint64_t fewest = 0;
  for (const Stripe& stripe : keepers.layout().stripes) {
    for (const StripeFragment& fragment : stripe.fragments) fewest += fragment_bytes(map, fragment);
    fewest += (stripe.parity() - 1) * stripe_bytes(map, stripe);
  }
  EXPECT_EQ(keepers.sent_bytes(), fewest);
}

// Two hosts of one data and one parity fragment each: 0 encodes 1's and the other way round.
class SnapshotOfTwo : public testing::Test {
 protected:
  const StateMap map_{small_model(), 512};
  const SnapshotLayout layout_ =
      place_snapshots(map_,
                      std::vector<ProtectedHost>{{WorkerId(0), "", TileSet(TileRange{0, 2})},
                                                 {WorkerId(1), "", TileSet(TileRange{2, 3})}},
                      {1, 1});
  SnapshotWork work_{map_, layout_, kName, WorkerId(1)};
  // That of which worker 1 has the parity.
  const std::uint32_t stripe_ = layout_.stripes[0].fragments[1].keeper == WorkerId(1) ? 0 : 1;
  const std::uint64_t bytes_ = stripe_bytes(map_, layout_.stripes[stripe_]);

  [[nodiscard]] bool refused(std::uint32_t from, const FragmentPart& part) {
    const auto taken = work_.take(WorkerId(from), part);
    return !taken && taken.error().code() == ErrorCode::corrupt;
  }
  [[nodiscard]] bool refused(std::uint32_t from, const StripeWord& word) {
    const auto taken = work_.take(WorkerId(from), word);
    return !taken && taken.error().code() == ErrorCode::corrupt;
  }
};

TEST(SnapshotWork, AHostAloneIsPlacedOnceItsTilesAreSealed) {
  const StateMap map(small_model(), 512);
  const SnapshotLayout layout =
      place_snapshots(map, std::vector<ProtectedHost>{{WorkerId(4), "", TileSet(TileRange{0, 3})}}, {3, 1});
  SnapshotWork work(map, layout, kName, WorkerId(4));
  EXPECT_EQ(work.own(), TileSet(TileRange{0, 3}));
  EXPECT_TRUE(work.seal(TileSet(TileRange{0, 2})).empty());
  EXPECT_FALSE(work.placed());
  EXPECT_TRUE(work.seal(TileSet(TileRange{2, 3})).empty());
  EXPECT_TRUE(work.placed());
  EXPECT_TRUE(work.whole().empty());
}

TEST_F(SnapshotOfTwo, TellsWhoseMessageItLacks) {
  EXPECT_EQ(work_.waiting_for(), WorkerId(0));  // its fragment
  static_cast<void>(work_.seal(TileSet(TileRange{2, 3})));
  ASSERT_TRUE(work_.take(WorkerId(0), StripeWord{kName, 1 - stripe_, StripeStatus::placed}));
  EXPECT_EQ(work_.waiting_for(), WorkerId(0));
  ASSERT_TRUE(work_.take(WorkerId(0), FragmentPart{kName, stripe_, 0, 0, bytes_}));
  EXPECT_EQ(work_.waiting_for(), std::nullopt);
  EXPECT_FALSE(work_.placed());
  static_cast<void>(work_.stored({kName, stripe_, 0, 0, bytes_}));
  EXPECT_TRUE(work_.placed());
}

TEST_F(SnapshotOfTwo, PartsWaitForTheirTurn) {
  const auto late = work_.take(WorkerId(0), FragmentPart{kName, stripe_, 0, 8, bytes_ - 8});
  ASSERT_TRUE(late);
  EXPECT_TRUE(late->empty());
  EXPECT_TRUE(refused(0, FragmentPart{kName, stripe_, 0, 8, bytes_ - 8}));
  EXPECT_TRUE(work_.whole().empty());
  const auto first = work_.take(WorkerId(0), FragmentPart{kName, stripe_, 0, 0, 8});
  ASSERT_TRUE(first);
  EXPECT_EQ(first->size(), 2U);  // both are added
  EXPECT_TRUE(work_.stored({kName, stripe_, 0, 0, 8}).empty());
  EXPECT_TRUE(work_.whole().empty());
  EXPECT_EQ(work_.stored({kName, stripe_, 0, 8, bytes_ - 8}).size(), 1U);  // the stripe is placed
  EXPECT_EQ(work_.whole().size(), 1U);
}

TEST_F(SnapshotOfTwo, NothingIsSentBeforeAWholeFragmentIsSealed) {
  SnapshotWork zero(map_, layout_, kName, WorkerId(0));
  EXPECT_TRUE(zero.seal(TileSet(TileRange{0, 1})).empty());
  const std::vector<SnapshotAction> expected{snapshot_action::SendFragment{WorkerId(1), kName, stripe_, 0}};
  EXPECT_EQ(zero.seal(TileSet(TileRange{1, 2})), expected);
  EXPECT_TRUE(zero.seal(TileSet(TileRange{0, 2})).empty());
}

TEST_F(SnapshotOfTwo, WhatDoesNotFitIsRefusedAndChangesNothing) {
  const FragmentPart good{kName, stripe_, 0, 0, bytes_};
  const auto with = [&](auto change) {
    FragmentPart part = good;
    change(part);
    return part;
  };
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.snapshot.step = Step(6); })));
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.snapshot.layout = ViewNumber(2); })));
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.stripe = 77; })));
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.fragment = 1; })));
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.fragment = 77; })));
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.offset = 4; })));  // it would end beyond the fragment
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.bytes = 0; })));
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.bytes += 4; })));
  EXPECT_TRUE(refused(0, with([](FragmentPart& p) { p.bytes = ~std::uint64_t{0}; })));
  EXPECT_TRUE(refused(5, good));
  EXPECT_TRUE(refused(0, StripeWord{kName, stripe_, StripeStatus::stored}));
  EXPECT_TRUE(refused(0, StripeWord{kName, stripe_, StripeStatus::placed}));
  EXPECT_TRUE(refused(0, StripeWord{kName, 1 - stripe_, StripeStatus::placed}));  // it has sent nothing yet
  const auto taken = work_.take(WorkerId(0), good);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->size(), 1U);
  EXPECT_TRUE(refused(0, good));
  EXPECT_EQ(work_.stored(good).size(), 1U);  // it is placed
  EXPECT_FALSE(work_.placed());
  EXPECT_EQ(work_.seal(TileSet(TileRange{2, 3})).size(), 1U);
  ASSERT_TRUE(work_.take(WorkerId(0), StripeWord{kName, 1 - stripe_, StripeStatus::placed}));
  EXPECT_TRUE(work_.placed());
}

}  // namespace
}  // namespace planaria
