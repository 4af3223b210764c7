// The status page: one self-contained HTML document, compiled into the program from index.html.
//
// Thread contract: immutable.
#pragma once

#include <string_view>

namespace planaria {

[[nodiscard]] std::string_view status_page();

}  // namespace planaria
