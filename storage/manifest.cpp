#include "storage/manifest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace planaria {
namespace {

// Ordered: the fields stand in the file as they are written here.
using json = nlohmann::ordered_json;

constexpr std::string_view kFormatName = "planaria-checkpoint";
constexpr std::size_t kMaxFiles = 100'000;

std::string dump(const json& value) {
  return value.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

Error damaged(std::string_view why) {
  return {ErrorCode::corrupt, fmt::format("damaged manifest: {}", why)};
}

template <class T>
bool read(const json& object, const char* key, T& out) {
  const auto found = object.find(key);
  if (found == object.end()) return false;
  if constexpr (std::is_same_v<T, std::string>) {
    if (!found->is_string()) return false;
    out = found->template get<std::string>();
    return true;
  } else if constexpr (std::is_same_v<T, Hash128>) {
    std::string text;
    if (!read(object, key, text)) return false;
    const auto hash = Hash128::from_hex(text);
    if (hash) out = *hash;
    return hash.ok();
  } else {
    if (!found->is_number_unsigned()) return false;
    out = found->template get<std::uint64_t>();
    return true;
  }
}

// A name that stays inside its directory.
bool is_plain_name(std::string_view name) {
  return !name.empty() && !name.starts_with('.') && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
           c == '_';
  });
}

Result<std::vector<ManifestFile>> parse_files(const json& list) {
  if (!list.is_array() || list.size() > kMaxFiles) return damaged("'files' is no list");
  std::vector<ManifestFile> files;
  std::set<std::string> names;
  for (const json& item : list) {
    ManifestFile file;
    if (!item.is_object() || !read(item, "name", file.name) || !read(item, "block", file.block) ||
        !read(item, "bytes", file.bytes) || !read(item, "xxh3_128", file.hash)) {
      return damaged("a file lacks name, block, bytes or xxh3_128");
    }
    if (!is_plain_name(file.name)) return damaged("a file name leads out of the directory");
    if (!names.insert(file.name).second) return damaged("a file is named twice");
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

std::string render(const Manifest& manifest) {
  json files = json::array();
  for (const ManifestFile& file : manifest.files) {
    files.push_back({{"name", file.name}, {"block", file.block}, {"bytes", file.bytes}, {"xxh3_128", file.hash.hex()}});
  }
  json root = {{"format", kFormatName},
               {"version", kCheckpointFormat},
               {"job_hash", manifest.job_hash.hex()},
               {"numeric_class", manifest.numeric_class},
               {"step", manifest.step.value()},
               {"view", manifest.view.value()}};
  if (manifest.weights_hash) root["weights_hash"] = manifest.weights_hash->hex();
  if (manifest.loss) root["loss"] = *manifest.loss;
  root["files"] = std::move(files);
  const std::string body = dump(root);
  root["manifest_hash"] = hash_bytes(std::as_bytes(std::span(body))).hex();
  return dump(root);
}

Result<Manifest> parse_manifest(std::string_view text) {
  if (text.size() > kMaxManifestBytes) return damaged("it is too large");
  const json root = json::parse(text, nullptr, false);
  if (root.is_discarded() || !root.is_object()) return damaged("it is not a JSON object");
  std::string format;
  std::uint64_t version = 0;
  if (!read(root, "format", format) || format != kFormatName) return damaged("'format' is not planaria-checkpoint");
  if (!read(root, "version", version)) return damaged("'version' is no number");
  if (version != kCheckpointFormat) {
    return Error(ErrorCode::mismatch,
                 fmt::format("the checkpoint has format version {}, this program reads {}; use the "
                             "program that wrote it",
                             version, kCheckpointFormat));
  }
  Manifest manifest;
  std::uint64_t step = 0;
  std::uint64_t view = 0;
  if (!read(root, "job_hash", manifest.job_hash) || !read(root, "numeric_class", manifest.numeric_class) ||
      !read(root, "step", step) || !read(root, "view", view) || !root.contains("files")) {
    return damaged("a field is missing or has the wrong type");
  }
  manifest.step = Step(step);
  manifest.view = ViewNumber(view);
  if (root.contains("weights_hash")) {
    Hash128 hash;
    if (!read(root, "weights_hash", hash)) return damaged("'weights_hash' is no hash");
    manifest.weights_hash = hash;
  }
  if (root.contains("loss")) {
    if (!root["loss"].is_number_float()) return damaged("'loss' is no number");
    manifest.loss = root["loss"].get<double>();
  }
  PLANARIA_ASSIGN(manifest.files, parse_files(root["files"]));
  if (render(manifest) != text) return damaged("its bytes don't match its own hash");
  return manifest;
}

}  // namespace planaria
