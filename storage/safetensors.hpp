// safetensors files: a bounded reader for bytes that nobody vouches for, and a streaming writer.
//
// The reader accepts a file only if every byte is accounted for: the header is JSON of bounded size, names are unique,
// offsets follow each other without hole or overlap, lengths match shapes, and the data ends with the file. Nothing is
// allocated by a number that the file claims. docs/FORMATS.md has the grammar.
//
// Thread contract: SafetensorsFile is immutable; a SafetensorsWriter belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/file.hpp"
#include "common/hash.hpp"
#include "common/result.hpp"

namespace planaria {

enum class TensorType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

[[nodiscard]] std::string_view to_string(TensorType type);  // as in the file: "F32"
[[nodiscard]] std::uint64_t bytes_of(TensorType type);

// F32, BF16 and F16, whose values are floats exactly.
[[nodiscard]] bool reads_as_floats(TensorType type);
// Precondition: it does, and `bytes` are those of out.size() elements, aligned or not.
void read_floats(TensorType type, std::span<const std::byte> bytes, std::span<float> out);

struct TensorSpec {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<std::uint64_t> shape;
};

struct TensorEntry : TensorSpec {
  std::uint64_t begin = 0;  // bytes from the start of the data
  std::uint64_t end = 0;
  [[nodiscard]] std::uint64_t elements() const { return (end - begin) / bytes_of(type); }
};

using TensorMetadata = std::map<std::string, std::string>;

inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = 16U << 20;
inline constexpr std::size_t kMaxTensorDimensions = 8;

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // in the order of their data
  TensorMetadata metadata;
  std::uint64_t data_offset = 0;  // bytes from the start of the file
};

// The header of a whole file's bytes; `corrupt` with the reason when anything is off.
[[nodiscard]] Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> file);

class SafetensorsFile {
 public:
  [[nodiscard]] static Result<SafetensorsFile> open(FileSystem& fs, const std::string& path);
  // `name` stands for the file in errors.
  [[nodiscard]] static Result<SafetensorsFile> parse(FileView file, std::string name);

  [[nodiscard]] const SafetensorsHeader& header() const { return header_; }
  // Null when there is no such tensor.
  [[nodiscard]] const TensorEntry* find(std::string_view name) const;
  [[nodiscard]] std::span<const std::byte> bytes(const TensorEntry& entry) const;

  // The tensor's values as floats; exact from f32, bf16 and f16. not_found without it, `mismatch` when its shape is
  // another one or its type none of the three.
  [[nodiscard]] Status copy_floats(std::string_view name, std::span<const std::uint64_t> shape,
                                   std::span<float> out) const;

 private:
  SafetensorsFile(FileView file, std::string name, SafetensorsHeader header)
      : file_(std::move(file)), name_(std::move(name)), header_(std::move(header)) {}

  FileView file_;
  std::string name_;
  SafetensorsHeader header_;
};

class SafetensorsWriter {
 public:
  // Writes the header for these tensors, whose data follows in this order; it is padded so that the data starts at a
  // multiple of 64 bytes. `file` outlives the writer.
  [[nodiscard]] static Result<SafetensorsWriter> begin(WritableFile& file, std::vector<TensorSpec> tensors,
                                                       const TensorMetadata& metadata);

  // The next bytes of the data, in pieces of any size.
  [[nodiscard]] Status append(std::span<const std::byte> bytes);
  [[nodiscard]] Status append(std::span<const float> values) { return append(std::as_bytes(values)); }
  // Checks that all data was given. Syncing and closing the file is the caller's.
  [[nodiscard]] Status finish() const;

  // Of all bytes written, the header included.
  [[nodiscard]] Hash128 hash() const { return hasher_.digest(); }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  SafetensorsWriter(WritableFile& file, std::uint64_t data_bytes) : file_(&file), data_left_(data_bytes) {}
  Status write(std::span<const std::byte> bytes);

  WritableFile* file_;
  Hasher hasher_;
  std::uint64_t bytes_ = 0;
  std::uint64_t data_left_;
};

}  // namespace planaria
