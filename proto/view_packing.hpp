// A view record for the wire: compressed, and for a receiver that is in an earlier view, as what differs from that.
//
// The record is laid out in columns, slots and tiles as differences to the entry before, so that a change of one
// pipeline leaves the bytes of all others as they were; then zstd compresses it, with the earlier record's columns as
// its prefix. After a loss among 10,000 workers that is a few kilobytes instead of four megabytes.
//
// Thread contract: pure functions.
#pragma once

#include <memory>

#include "common/codec.hpp"
#include "proto/layout.hpp"

namespace planaria {

// Of a record that was unpacked.
inline constexpr std::size_t kMaxViewBytes = 64U << 20;

struct PackedView {
  ViewNumber view;
  ViewNumber base;  // the record whose columns are the prefix; 0 = none
  ByteVector bytes;

  template <class V>
  void fields(V& v) {
    v(view, base, bytes);
  }
};

// base: null, or an earlier record.
[[nodiscard]] PackedView pack_view(const ViewRecord& record, const ViewRecord* base);

// Errors with `corrupt` when the bytes aren't what pack_view() made with the same base, or are of another view, and
// with `stale` when another base is needed than `base`, which may be null.
[[nodiscard]] Result<ViewRecord> unpack_view(const PackedView& packed, const ViewRecord* base);

}  // namespace planaria
