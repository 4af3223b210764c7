#include "storage/erasure_code.hpp"

#include <fmt/format.h>
#include <isa-l/erasure_code.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace planaria {
namespace {

constexpr std::size_t kTableBytes = 32;  // of ISA-L's for one coefficient
// Fragments are gone through in strips: ISA-L takes lengths as int, and while several passes write to the same outputs
// (more than six of them), or inputs are added one by one, the strips stay in a core's cache.
constexpr std::size_t kStripBytes = 64U << 10;

// ISA-L takes pointers to what it only reads as if it wrote there.
unsigned char* bytes_at(FragmentBytes fragment, std::size_t offset) {
  return reinterpret_cast<unsigned char*>(const_cast<std::byte*>(fragment.data())) + offset;
}

template <class Work>
void by_strips(std::size_t length, Work work) {
  for (std::size_t at = 0; at < length; at += kStripBytes)
    work(at, static_cast<int>(std::min(kStripBytes, length - at)));
}

}  // namespace

FragmentSums::FragmentSums(unsigned inputs, unsigned outputs, std::vector<unsigned char> rows)
    : inputs_(inputs), outputs_(outputs), tables_(kTableBytes * inputs * outputs) {
  if (!tables_.empty()) {
    ec_init_tables(static_cast<int>(inputs), static_cast<int>(outputs), rows.data(), tables_.data());
  }
}

void FragmentSums::write(std::span<const FragmentBytes> from, std::span<const FragmentBuffer> to) const {
  if (outputs_ == 0) return;
  std::array<unsigned char*, kMaxFragments> sources{}, targets{};
  by_strips(to.front().size(), [&](std::size_t at, int length) {
    for (unsigned i = 0; i < inputs_; ++i) sources[i] = bytes_at(from[i], at);
    for (unsigned i = 0; i < outputs_; ++i) targets[i] = bytes_at(to[i], at);
    ec_encode_data(length, static_cast<int>(inputs_), static_cast<int>(outputs_),
                   const_cast<unsigned char*>(tables_.data()), sources.data(), targets.data());
  });
}

void FragmentSums::add(unsigned input, FragmentBytes from, std::span<const FragmentBuffer> to) const {
  if (outputs_ == 0) return;
  std::array<unsigned char*, kMaxFragments> targets{};
  by_strips(from.size(), [&](std::size_t at, int length) {
    for (unsigned i = 0; i < outputs_; ++i) targets[i] = bytes_at(to[i], at);
    ec_encode_data_update(length, static_cast<int>(inputs_), static_cast<int>(outputs_), static_cast<int>(input),
                          const_cast<unsigned char*>(tables_.data()), bytes_at(from, at), targets.data());
  });
}

ErasureCode::ErasureCode(unsigned data, unsigned parity, std::vector<unsigned char> matrix)
    : data_(data), parity_(parity), matrix_(std::move(matrix)) {}

Result<ErasureCode> ErasureCode::make(unsigned data, unsigned parity) {
  if (data == 0 || data > kMaxFragments || parity > kMaxFragments - data) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("{} data and {} parity fragments: a code has data, and up to {} of both", data, parity,
                             kMaxFragments));
  }
  std::vector<unsigned char> matrix(std::size_t{data + parity} * data);
  gf_gen_cauchy1_matrix(matrix.data(), static_cast<int>(data + parity), static_cast<int>(data));
  if (parity > 0) {
    for (unsigned column = 0; column < data; ++column) {
      const unsigned char scale = gf_inv(matrix[std::size_t{data} * data + column]);
      for (unsigned row = data; row < data + parity; ++row) {
        unsigned char& coefficient = matrix[std::size_t{row} * data + column];
        coefficient = gf_mul(coefficient, scale);
      }
    }
  }
  return ErasureCode(data, parity, std::move(matrix));
}

FragmentSums ErasureCode::encode() const {
  return {data_, parity_, {matrix_.begin() + static_cast<std::ptrdiff_t>(data_) * data_, matrix_.end()}};
}

Result<FragmentSums> ErasureCode::rebuild(std::span<const unsigned> from, std::span<const unsigned> lost) const {
  const auto refuse = [](std::string why) { return Error(ErrorCode::invalid_argument, std::move(why)); };
  std::uint64_t seen = 0;
  static_assert(kMaxFragments <= 64);
  for (const auto& fragments : {from, lost}) {
    for (const unsigned fragment : fragments) {
      if (fragment >= data_ + parity_) return refuse(fmt::format("there is no fragment {}", fragment));
      if ((seen & (std::uint64_t{1} << fragment)) != 0)
        return refuse(fmt::format("fragment {} is told twice", fragment));
      seen |= std::uint64_t{1} << fragment;
    }
  }
  if (from.size() != data_) {
    return refuse(fmt::format("fragments are rebuilt from {} others, not from {}", data_, from.size()));
  }
  const auto row = [&](unsigned fragment) { return matrix_.begin() + static_cast<std::ptrdiff_t>(fragment) * data_; };
  std::vector<unsigned char> given, to_data(std::size_t{data_} * data_);
  for (const unsigned fragment : from) given.insert(given.end(), row(fragment), row(fragment) + data_);
  if (gf_invert_matrix(given.data(), to_data.data(), static_cast<int>(data_)) != 0) {
    return Error(ErrorCode::internal, "a part of the code's matrix can't be inverted");
  }
  std::vector<unsigned char> rows;
  for (const unsigned fragment : lost) {
    for (unsigned column = 0; column < data_; ++column) {
      unsigned char sum = 0;
      for (unsigned i = 0; i < data_; ++i) sum ^= gf_mul(row(fragment)[i], to_data[std::size_t{i} * data_ + column]);
      rows.push_back(sum);
    }
  }
  return FragmentSums(data_, static_cast<unsigned>(lost.size()), std::move(rows));
}

}  // namespace planaria
