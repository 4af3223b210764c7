#include "storage/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "storage/strict_json.hpp"

namespace planaria {
namespace {

using nlohmann::json;

struct TypeName {
  TensorType type;
  std::string_view name;
  std::uint64_t bytes;
};

constexpr std::array kTypes{
    TypeName{TensorType::f64, "F64", 8},      TypeName{TensorType::f32, "F32", 4}, TypeName{TensorType::f16, "F16", 2},
    TypeName{TensorType::bf16, "BF16", 2},    TypeName{TensorType::i64, "I64", 8}, TypeName{TensorType::i32, "I32", 4},
    TypeName{TensorType::i16, "I16", 2},      TypeName{TensorType::i8, "I8", 1},   TypeName{TensorType::u64, "U64", 8},
    TypeName{TensorType::u32, "U32", 4},      TypeName{TensorType::u16, "U16", 2}, TypeName{TensorType::u8, "U8", 1},
    TypeName{TensorType::boolean, "BOOL", 1},
};

constexpr std::string_view kMetadataKey = "__metadata__";
constexpr std::uint64_t kDataAlignment = 64;
constexpr int kMaxDepth = 3;  // the header, a tensor, its arrays

Error damaged(std::string what) {
  return {ErrorCode::corrupt, std::move(what)};
}

// False on overflow.
bool multiply(std::uint64_t& product, std::uint64_t factor) {
  return !__builtin_mul_overflow(product, factor, &product);
}

Result<TensorEntry> parse_entry(const std::string& name, const json& value) {
  const auto fail = [&](std::string_view why) { return damaged(fmt::format("tensor '{}' {}", name, why)); };
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets")) {
    return fail("is not described by dtype, shape and data_offsets");
  }
  TensorEntry entry;
  entry.name = name;
  const auto* type_name = value["dtype"].get_ptr<const json::string_t*>();
  const auto* type =
      type_name == nullptr
          ? kTypes.end()
          : std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeName& known) { return known.name == *type_name; });
  if (type == kTypes.end()) return fail("has an element type that is not known here");
  entry.type = type->type;

  const json& shape = value["shape"];
  if (!shape.is_array() || shape.size() > kMaxTensorDimensions) return fail("has a shape that is no short list");
  std::uint64_t bytes = type->bytes;
  for (const json& dimension : shape) {
    if (!dimension.is_number_unsigned()) return fail("has a dimension that is no whole number");
    entry.shape.push_back(dimension.get<std::uint64_t>());
    if (!multiply(bytes, entry.shape.back())) return fail("is larger than any memory");
  }
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return fail("has offsets that are not two whole numbers");
  }
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    return fail("has offsets that don't match its shape and type");
  }
  return entry;
}

Status parse_metadata(const json& value, TensorMetadata& metadata) {
  if (!value.is_object()) return damaged("the header's __metadata__ is no object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) return damaged("the header's __metadata__ holds something else than text");
    metadata[key] = text.get<std::string>();
  }
  return ok_status();
}

float from_half(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000U} << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1FU;
  const std::uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1.0p-24F;  // subnormal: exact
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  const std::uint32_t wide = exponent == 0x1F ? 0xFFU : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

template <class Convert>
void convert_halves(std::span<const std::byte> bytes, std::span<float> out, Convert convert) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, bytes.data() + 2 * i, sizeof half);
    out[i] = convert(half);
  }
}

}  // namespace

std::string_view to_string(TensorType type) {
  return kTypes.at(static_cast<std::size_t>(type)).name;
}
std::uint64_t bytes_of(TensorType type) {
  return kTypes.at(static_cast<std::size_t>(type)).bytes;
}
bool reads_as_floats(TensorType type) {
  return type == TensorType::f32 || type == TensorType::bf16 || type == TensorType::f16;
}

void read_floats(TensorType type, std::span<const std::byte> bytes, std::span<float> out) {
  assert(reads_as_floats(type) && bytes.size() == out.size() * bytes_of(type));
  if (type == TensorType::f32) {
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  } else if (type == TensorType::bf16) {
    convert_halves(bytes, out, [](std::uint16_t half) { return std::bit_cast<float>(std::uint32_t{half} << 16); });
  } else {
    convert_halves(bytes, out, from_half);
  }
}

Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> file) {
  std::uint64_t header_bytes = 0;
  if (file.size() < sizeof header_bytes) return damaged("the file ends inside the length of its header");
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return damaged(
        fmt::format("the header claims {} bytes, more than the {} allowed", header_bytes, kMaxSafetensorsHeaderBytes));
  }
  if (header_bytes > file.size() - sizeof header_bytes) return damaged("the file ends inside its header");
  const auto* text = reinterpret_cast<const char*>(file.data() + sizeof header_bytes);  // NOLINT: bytes as chars
  const auto parsed = parse_strict_json({text, header_bytes}, kMaxDepth);
  if (!parsed) return damaged("the header is not a flat JSON object with unique keys");

  SafetensorsHeader header;
  header.data_offset = sizeof header_bytes + header_bytes;
  for (const auto& [name, value] : parsed->items()) {
    if (name == kMetadataKey) {
      PLANARIA_TRY(parse_metadata(value, header.metadata));
      continue;
    }
    PLANARIA_ASSIGN(TensorEntry entry, parse_entry(name, value));
    header.tensors.push_back(std::move(entry));
  }
  // By end too: empty tensors come before the one that starts where they stand.
  std::ranges::sort(header.tensors, {}, [](const TensorEntry& e) { return std::pair(e.begin, e.end); });
  std::uint64_t at = 0;
  for (const TensorEntry& entry : header.tensors) {
    if (entry.begin != at) {
      return damaged(
          fmt::format("tensor '{}' starts at {} where {} was due: a hole or an overlap", entry.name, entry.begin, at));
    }
    at = entry.end;
  }
  const std::uint64_t data_bytes = file.size() - header.data_offset;
  if (at != data_bytes) {
    return damaged(fmt::format("the header describes {} bytes of data, the file has {}", at, data_bytes));
  }
  return header;
}

Result<SafetensorsFile> SafetensorsFile::open(FileSystem& fs, const std::string& path) {
  PLANARIA_ASSIGN(FileView file, fs.map(path));
  return parse(std::move(file), path);
}

Result<SafetensorsFile> SafetensorsFile::parse(FileView file, std::string name) {
  auto header = parse_safetensors(file.bytes());
  if (!header) return header.error().within(fmt::format("'{}' is not a sound safetensors file", name));
  return SafetensorsFile(std::move(file), std::move(name), std::move(header).value());
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = std::ranges::find(header_.tensors, name, &TensorEntry::name);
  return found == header_.tensors.end() ? nullptr : &*found;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorEntry& entry) const {
  return file_.bytes().subspan(header_.data_offset + entry.begin, entry.end - entry.begin);
}

Status SafetensorsFile::copy_floats(std::string_view name, std::span<const std::uint64_t> shape,
                                    std::span<float> out) const {
  const TensorEntry* entry = find(name);
  if (entry == nullptr) return Error(ErrorCode::not_found, fmt::format("'{}' has no tensor '{}'", name_, name));
  if (!std::ranges::equal(entry->shape, shape) || entry->elements() != out.size()) {
    return Error(ErrorCode::mismatch, fmt::format("tensor '{}' of '{}' has shape [{}], expected is [{}]", name, name_,
                                                  fmt::join(entry->shape, ", "), fmt::join(shape, ", ")));
  }
  if (!reads_as_floats(entry->type)) {
    return Error(ErrorCode::mismatch,
                 fmt::format("tensor '{}' of '{}' has type {}, readable as floats are F32, BF16, F16", name, name_,
                             to_string(entry->type)));
  }
  read_floats(entry->type, bytes(*entry), out);
  return ok_status();
}

Result<SafetensorsWriter> SafetensorsWriter::begin(WritableFile& file, std::vector<TensorSpec> tensors,
                                                   const TensorMetadata& metadata) {
  json header = json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  std::uint64_t at = 0;
  for (const TensorSpec& tensor : tensors) {
    std::uint64_t bytes = bytes_of(tensor.type);
    for (const std::uint64_t dimension : tensor.shape) bytes *= dimension;
    header[tensor.name] = {
        {"dtype", to_string(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  while ((sizeof(std::uint64_t) + text.size()) % kDataAlignment != 0) text += ' ';
  if (text.size() > kMaxSafetensorsHeaderBytes) {
    return Error(ErrorCode::invalid_argument, "too many tensors for one safetensors file");
  }
  SafetensorsWriter writer(file, at);
  const std::uint64_t length = text.size();
  PLANARIA_TRY(writer.write(std::as_bytes(std::span(&length, 1))));
  PLANARIA_TRY(writer.write(std::as_bytes(std::span(text))));
  return writer;
}

Status SafetensorsWriter::write(std::span<const std::byte> bytes) {
  PLANARIA_TRY(file_->append(bytes));
  hasher_.update(bytes);
  bytes_ += bytes.size();
  return ok_status();
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > data_left_) return Error(ErrorCode::internal, "more tensor data than the header describes");
  data_left_ -= bytes.size();
  return write(bytes);
}

Status SafetensorsWriter::finish() const {
  if (data_left_ != 0) return Error(ErrorCode::internal, "less tensor data than the header describes");
  return ok_status();
}

}  // namespace planaria
