// Temporary folders and files for the data tests, and a small tokenizer.json.
//
// Thread contract: one thread a fixture.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tests/temporary_directory.hpp"

namespace planaria {

class DataTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return (root_ / name).string(); }
  std::string write(const std::string& name, std::string_view bytes) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path(name);
  }
  std::string write_u16(const std::string& name, const std::vector<std::uint16_t>& tokens) const {
    return write(name, {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(std::uint16_t)});
  }

  const TemporaryDirectory directory_;
  const std::filesystem::path root_ = directory_.path();
};

// The 256 byte letters with ids 0 … 255 in code point order of the alphabet, then `merges` in order, then
// <|endoftext|>.
inline nlohmann::json small_bpe(const std::vector<std::pair<std::string, std::string>>& merges) {
  nlohmann::json vocab = nlohmann::json::object();
  std::uint32_t next_letter = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const std::uint32_t letter = printable ? byte : next_letter++;
    std::string utf8;
    if (letter < 0x80) {
      utf8 = static_cast<char>(letter);
    } else {
      utf8 = {static_cast<char>(0xC0U | (letter >> 6)), static_cast<char>(0x80U | (letter & 0x3FU))};
    }
    vocab[utf8] = byte;
  }
  nlohmann::json merge_list = nlohmann::json::array();
  std::uint32_t id = 256;
  for (const auto& [left, right] : merges) {
    vocab[left + right] = id++;
    merge_list.push_back(left + " " + right);
  }
  return {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merge_list}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"normalizer", nullptr},
          {"added_tokens", {{{"id", id}, {"content", "<|endoftext|>"}, {"special", true}}}}};
}

}  // namespace planaria
