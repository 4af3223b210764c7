// Authentication of frames that leave the host: GMAC (AES-256-GCM without ciphertext) over the header and the payload,
// under a key derived from the job's session key. It keeps out who doesn't hold the key; it hides nothing, and it
// covers frames only, not the network library's own connection messages.
//
// Each connection has its own key, HMAC-SHA256(session key, job ‖ sender ‖ receiver ‖ session), and each frame's nonce
// is its sequence number, so that no (key, nonce) is used twice and a recorded frame fits no other connection.
//
// Thread contract: a FrameAuthenticator belongs to one thread.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "common/transport/frame.hpp"

namespace planaria {

using SessionKey = std::array<std::byte, 32>;

// Masks the header's check with the first 8 bytes of HMAC-SHA256(session key, the 120 bytes before), or takes the mask
// off again: a header of somebody without the key is refused as malformed, before anything in it has an effect.
void mask_header_check(WireHeaderBytes& header, const SessionKey& key);

class FrameAuthenticator {
 public:
  // The key of the connection that `header` belongs to.
  FrameAuthenticator(const SessionKey& key, const WireHeader& header);
  ~FrameAuthenticator();
  FrameAuthenticator(FrameAuthenticator&&) noexcept;
  FrameAuthenticator& operator=(FrameAuthenticator&&) noexcept;

  // The tag over everything in the header but the tag and chunk offset, and over the payload's parts in order.
  [[nodiscard]] AuthTag tag(const WireHeader& header, std::span<const ConstSlice> payload) const;
  // Compares in constant time.
  [[nodiscard]] bool verify(const WireHeader& header, std::span<const std::byte> payload) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace planaria
