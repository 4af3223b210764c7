// One visitor of a variant out of several lambdas.
//
// Thread contract: that of the lambdas.
#pragma once

namespace planaria {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

}  // namespace planaria
