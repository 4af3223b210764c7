#include "proto/telemetry.hpp"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <memory>
#include <string_view>

namespace planaria {

namespace {

Result<TelemetryKeyPair> key_pair(std::span<const std::uint8_t> frame_key, std::string_view label) {
  const Error failed(ErrorCode::internal, "OpenSSL can't derive the telemetry keys");
  TelemetryKeyPair pair;
  unsigned size = 0;
  if (HMAC(EVP_sha256(), frame_key.data(), static_cast<int>(frame_key.size()),
           reinterpret_cast<const unsigned char*>(label.data()), label.size(), pair.secret_key.data(),
           &size) == nullptr) {
    return failed;
  }
  // CURVE's keys are those of X25519.
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, pair.secret_key.data(), pair.secret_key.size()),
      EVP_PKEY_free);
  std::size_t length = pair.public_key.size();
  if (!key || EVP_PKEY_get_raw_public_key(key.get(), pair.public_key.data(), &length) != 1) return failed;
  return pair;
}

}  // namespace

Result<TelemetryKeys> telemetry_keys(std::span<const std::uint8_t> frame_key) {
  TelemetryKeys keys;
  PLANARIA_ASSIGN(keys.server, key_pair(frame_key, "planaria telemetry server"));
  PLANARIA_ASSIGN(keys.client, key_pair(frame_key, "planaria telemetry client"));
  return keys;
}

}  // namespace planaria
