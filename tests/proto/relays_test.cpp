#include "proto/relays.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace planaria {
namespace {

std::vector<WorkerId> workers(std::uint32_t count) {
  std::vector<WorkerId> ids;
  for (std::uint32_t i = 0; i < count; ++i) ids.emplace_back(3 * i + 1);
  return ids;
}

TEST(RelaysTest, FewMembersTellEachOther) {
  const Relays relays(workers(5), 5);
  EXPECT_EQ(relays.relays(), workers(5));
  for (const WorkerId of : workers(5)) {
    EXPECT_EQ(relays.relay_of(of), of);
    for (const WorkerId from : workers(5)) {
      for (const WorkerId to : workers(5)) {
        if (to == of || to == from) continue;
        EXPECT_EQ(relays.passes_on(from, to, of), from == of);
      }
    }
  }
}

// Every word reaches every member by links that `passes_on` allows, in messages of which each carries news.
TEST(RelaysTest, EveryWordReachesEveryMember) {
  for (const std::uint32_t count : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 10U, 31U, 33U, 100U, 1000U}) {
    const std::vector<WorkerId> all = workers(count);
    const Relays relays(all, 2);
    std::size_t messages = 0;
    std::set<WorkerId> grouped;
    for (const WorkerId relay : relays.relays()) {
      EXPECT_EQ(relays.relay_of(relay), relay);
      EXPECT_EQ(relays.group_of(relay).front(), relay);
      for (const WorkerId member : relays.group_of(relay)) {
        EXPECT_TRUE(grouped.insert(member).second);
        EXPECT_EQ(relays.relay_of(member), relay);
        if (member == relay) continue;
        messages += 2;
        EXPECT_TRUE(relays.passes_on(member, relay, member));
        for (const WorkerId of : all) EXPECT_TRUE(relays.passes_on(relay, member, of));
      }
      for (const WorkerId other : relays.relays()) {
        if (other == relay) continue;
        ++messages;
        for (const WorkerId of : relays.group_of(relay)) EXPECT_TRUE(relays.passes_on(relay, other, of));
        for (const WorkerId of : relays.group_of(other)) EXPECT_FALSE(relays.passes_on(relay, other, of));
      }
    }
    EXPECT_EQ(grouped.size(), count);
    EXPECT_LE(messages, 3 * count);
  }
}

}  // namespace
}  // namespace planaria
