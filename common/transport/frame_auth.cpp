#include "common/transport/frame_auth.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <cstring>

namespace planaria {
namespace {

// EVP takes lengths as int.
constexpr std::size_t kMaxUpdate = std::size_t{1} << 30;

const unsigned char* raw(const std::byte* data) {
  return reinterpret_cast<const unsigned char*>(data);
}

bool authenticate(EVP_CIPHER_CTX* context, std::span<const std::byte> bytes) {
  int ignored = 0;
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min(bytes.size(), kMaxUpdate));
    if (EVP_EncryptUpdate(context, nullptr, &ignored, raw(part.data()), static_cast<int>(part.size())) != 1) {
      return false;
    }
    bytes = bytes.subspan(part.size());
  }
  return true;
}

}  // namespace

void mask_header_check(WireHeaderBytes& header, const SessionKey& key) {
  std::array<unsigned char, 32> digest{};
  unsigned size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(header.data()),
       kHeaderCheckAt, digest.data(), &size);
  for (std::size_t i = kHeaderCheckAt; i < header.size(); ++i) header[i] ^= std::byte{digest[i - kHeaderCheckAt]};
}

struct FrameAuthenticator::State {
  std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context{EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free};
};

FrameAuthenticator::FrameAuthenticator(const SessionKey& key, const WireHeader& header)
    : state_(std::make_unique<State>()) {
  const std::uint64_t words[] = {
      header.frame.job,         header.frame.from.worker.value(), header.frame.from.incarnation.value(),
      header.to.worker.value(), header.to.incarnation.value(),    header.session};
  std::array<unsigned char, 32> derived{};
  unsigned size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(words),
       sizeof words, derived.data(), &size);
  EVP_EncryptInit_ex(state_->context.get(), EVP_aes_256_gcm(), nullptr, derived.data(), nullptr);
  OPENSSL_cleanse(derived.data(), derived.size());
}

FrameAuthenticator::~FrameAuthenticator() = default;
FrameAuthenticator::FrameAuthenticator(FrameAuthenticator&&) noexcept = default;
FrameAuthenticator& FrameAuthenticator::operator=(FrameAuthenticator&&) noexcept = default;

AuthTag FrameAuthenticator::tag(const WireHeader& header, std::span<const ConstSlice> payload) const {
  EVP_CIPHER_CTX* context = state_->context.get();
  std::array<unsigned char, 12> nonce{};
  std::memcpy(nonce.data(), &header.sequence, sizeof header.sequence);
  const WireHeaderBytes wire = encode_wire_header(header);
  AuthTag out{};
  int ignored = 0;
  bool ok = EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()) == 1 &&
            authenticate(context, std::span(wire).first(kAuthenticatedHeaderBytes));
  for (const ConstSlice& slice : payload) ok = ok && authenticate(context, slice.bytes);
  ok = ok && EVP_EncryptFinal_ex(context, nullptr, &ignored) == 1 &&
       EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, static_cast<int>(out.size()), out.data()) == 1;
  // With no cipher there is no tag; all zeros is as good as any other that won't match.
  return ok ? out : AuthTag{};
}

bool FrameAuthenticator::verify(const WireHeader& header, std::span<const std::byte> payload) const {
  const ConstSlice whole{payload, nullptr};
  const AuthTag expected = tag(header, std::span(&whole, 1));
  return header.keyed && expected != AuthTag{} &&
         CRYPTO_memcmp(expected.data(), header.auth.data(), expected.size()) == 0;
}

}  // namespace planaria
