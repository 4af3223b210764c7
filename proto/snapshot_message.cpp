#include "proto/snapshot_message.hpp"

#include <algorithm>
#include <set>

#include "proto/tile_set.hpp"

namespace planaria {

Status check_rebuild(const FragmentRebuild& rebuild, const StateMap& map) {
  const auto refuse = [](const char* why) { return Error(ErrorCode::corrupt, why); };
  const Stripe& stripe = rebuild.layout;
  PLANARIA_TRY(check_snapshot_layout({{stripe}}, map));
  if (rebuild.fragment >= stripe.data) return refuse("a rebuild of what is no data");
  const bool ordered = !rebuild.tiles.empty() && std::ranges::is_sorted(rebuild.tiles) &&
                       std::ranges::none_of(rebuild.tiles, &TileRange::empty);
  if (!ordered || !TileSet(stripe.fragments[rebuild.fragment].tiles).contains(TileSet(rebuild.tiles))) {
    return refuse("a rebuild of tiles that aren't its fragment's");
  }
  std::set<std::uint32_t> there;
  for (std::uint32_t i = 0; i < stripe.data; ++i) {
    if (stripe.is_zeros(i)) there.insert(i);
  }
  for (const FragmentSource& source : rebuild.sources) {
    const bool other = source.fragment < stripe.fragments.size() && source.fragment != rebuild.fragment;
    if (!other || !there.insert(source.fragment).second) return refuse("a rebuild from a fragment that is none");
  }
  return there.size() == stripe.data ? ok_status() : Status(refuse("a rebuild from too few fragments"));
}

}  // namespace planaria
