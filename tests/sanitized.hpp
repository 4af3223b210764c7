// Whether a sanitizer watches this build: it pays several times over for each step and each byte.
#pragma once

namespace planaria {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace planaria
