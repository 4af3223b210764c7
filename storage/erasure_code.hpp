// Reed–Solomon over GF(2^8): k data fragments of one length get m parity fragments, and any k of all k + m give back
// every other; they are numbered, data first (Reed, Solomon 1960; the field's arithmetic is ISA-L's).
//
// The parity's matrix is a Cauchy matrix, every square part of which can be inverted, with columns scaled so that its
// first row is all ones: the first parity fragment is the exclusive or of the data.
//
// Thread contract: immutable; any thread may use one object.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/result.hpp"
#include "proto/snapshot_layout.hpp"

namespace planaria {

using FragmentBytes = std::span<const std::byte>;
using FragmentBuffer = std::span<std::byte>;

// Fragments as sums over others: the rows of a matrix over GF(2^8).
class FragmentSums {
 public:
  [[nodiscard]] unsigned inputs() const { return inputs_; }
  [[nodiscard]] unsigned outputs() const { return outputs_; }

  // Writes all outputs from all inputs. Precondition: as many of each as told, of one length.
  void write(std::span<const FragmentBytes> from, std::span<const FragmentBuffer> to) const;
  // Adds what one input gives to each output: outputs that begin as zeros are whole when every input was added once, in
  // any order. Precondition: as above.
  void add(unsigned input, FragmentBytes from, std::span<const FragmentBuffer> to) const;

 private:
  friend class ErasureCode;
  FragmentSums(unsigned inputs, unsigned outputs, std::vector<unsigned char> rows);

  unsigned inputs_;
  unsigned outputs_;
  std::vector<unsigned char> tables_;  // ISA-L's, of the rows
};

class ErasureCode {
 public:
  // invalid_argument: no data, or more than kMaxFragments (proto/snapshot_layout.hpp) together.
  [[nodiscard]] static Result<ErasureCode> make(unsigned data, unsigned parity);

  [[nodiscard]] unsigned data() const { return data_; }
  [[nodiscard]] unsigned parity() const { return parity_; }

  // Data to parity.
  [[nodiscard]] FragmentSums encode() const;
  // Of k fragments `from`, in this order, to others. invalid_argument: not k different ones, or numbers beyond k + m.
  [[nodiscard]] Result<FragmentSums> rebuild(std::span<const unsigned> from, std::span<const unsigned> lost) const;

 private:
  ErasureCode(unsigned data, unsigned parity, std::vector<unsigned char> matrix);

  unsigned data_;
  unsigned parity_;
  std::vector<unsigned char> matrix_;  // k + m rows of k
};

}  // namespace planaria
