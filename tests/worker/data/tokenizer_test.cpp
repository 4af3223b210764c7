#include "worker/data/tokenizer.hpp"

#include "common/philox.hpp"
#include "data_test_support.hpp"
#include "worker/data/word_split.hpp"

namespace planaria {
namespace {

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> result;
  while (!text.empty()) {
    const std::size_t bytes = next_word(text);
    result.emplace_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
  return result;
}

using Words = std::vector<std::string>;

TEST(WordSplit, FollowsTheGpt2Expression) {
  EXPECT_EQ(words("Hello world, it's 42!"), (Words{"Hello", " world", ",", " it", "'s", " 42", "!"}));
  EXPECT_EQ(words("we'll they've 'tis I'd"), (Words{"we", "'ll", " they", "'ve", " '", "tis", " I", "'d"}));
  EXPECT_EQ(words("a1b2"), (Words{"a", "1", "b", "2"}));
  EXPECT_EQ(words("x  = y;\n\n  z"), (Words{"x", " ", " =", " y", ";", "\n\n ", " z"}));
  EXPECT_EQ(words("end  \n"), (Words{"end", "  \n"}));
  EXPECT_EQ(words("\ta"), (Words{"\t", "a"}));
}

TEST(WordSplit, UnicodeLettersNumbersAndSpacesAreClasses) {
  EXPECT_EQ(words("na\xC3\xAFve \xE4\xB8\xAD\xE6\x96\x87"), (Words{"na\xC3\xAFve", " \xE4\xB8\xAD\xE6\x96\x87"}));
  EXPECT_EQ(words("x\xC2\xB2"), (Words{"x", "\xC2\xB2"}));  // superscript two is a number
  EXPECT_EQ(words("a\xE3\x80\x80"
                  "b"),
            (Words{"a", "\xE3\x80\x80", "b"}));             // ideographic space
  EXPECT_EQ(words("e\xCC\x81"), (Words{"e", "\xCC\x81"}));  // a combining mark is neither
}

TEST(WordSplit, BrokenUtf8IsCutByteByByteWithoutLoss) {
  EXPECT_EQ(words("a\xFF\xC3"), (Words{"a", "\xFF\xC3"}));
  EXPECT_EQ(words("\xE4\xB8"), (Words{"\xE4\xB8"}));
  EXPECT_EQ(words("\xC0\x80z"), (Words{"\xC0\x80", "z"}));
}

TEST(ByteTokenizer, MapsBytesToThemselves) {
  const auto tokenizer = byte_tokenizer();
  EXPECT_EQ(tokenizer->encode("A\xFF"), (std::vector<TokenId>{65, 255}));
  EXPECT_EQ(*tokenizer->decode(std::vector<TokenId>{65, 10}), "A\n");
  EXPECT_FALSE(tokenizer->decode(std::vector<TokenId>{256}).ok());
}

std::unique_ptr<Tokenizer> parse(const nlohmann::json& document) {
  auto tokenizer = parse_bpe_tokenizer(document.dump(), "test.json");
  EXPECT_TRUE(tokenizer.ok()) << (tokenizer.ok() ? "" : tokenizer.error().describe());
  return std::move(tokenizer).value();
}

TEST(BpeTokenizer, JoinsTheLowestRankFirstAndTheLeftmostOfEquals) {
  // Ids: 256 "bc", 257 "ab", 258 "aa", 259 "Gthe" with G the letter of the space.
  const auto tokenizer =
      parse(small_bpe({{"b", "c"}, {"a", "b"}, {"a", "a"}, {"t", "h"}, {"th", "e"}, {"\xC4\xA0", "the"}}));
  EXPECT_EQ(tokenizer->encode("abc"), (std::vector<TokenId>{'a', 256}));
  EXPECT_EQ(tokenizer->encode("aaa"), (std::vector<TokenId>{258, 'a'}));
  EXPECT_EQ(tokenizer->encode("the the"), (std::vector<TokenId>{260, 261}));
}

TEST(BpeTokenizer, AddedTokensAreFoundInTheText) {
  const auto tokenizer = parse(small_bpe({{"a", "b"}}));
  EXPECT_EQ(tokenizer->end_of_text(), 257U);
  EXPECT_EQ(tokenizer->encode("ab<|endoftext|>ab<"), (std::vector<TokenId>{256, 257, 256, '<'}));
  EXPECT_EQ(*tokenizer->decode(std::vector<TokenId>{256, 257}), "ab<|endoftext|>");
}

TEST(BpeTokenizer, AnyBytesSurviveARoundTrip) {
  const auto tokenizer = parse(small_bpe({{"a", "b"}, {"\xC3\xBF", "\xC3\xBF"}, {"\xC4\xA0", "\xC4\xA0"}}));
  constexpr std::uint64_t kSeed = 20;
  RecordProperty("seed", static_cast<int>(kSeed));
  PhiloxStream random(philox_key(kSeed, RandomPurpose::tests));
  for (int round = 0; round < 200; ++round) {
    std::string text;
    const std::uint64_t size = random.below(60);
    for (std::uint64_t i = 0; i < size; ++i) {
      text.push_back(static_cast<char>(random.chance(0.5) ? " ab'"[random.below(4)] : random.below(256)));
    }
    const auto decoded = tokenizer->decode(tokenizer->encode(text));
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(*decoded, text) << "round " << round << " of seed " << kSeed;
  }
}

TEST(BpeTokenizer, OneEndlessWordTakesReasonableTime) {
  const auto tokenizer = parse(small_bpe({{"a", "a"}, {"aa", "aa"}}));
  EXPECT_EQ(tokenizer->encode(std::string(400000, 'a')).size(), 100000U);
}

TEST(BpeTokenizer, WhatItCannotDoIsRefusedWithTheReason) {
  const auto refusal = [](const nlohmann::json& document) {
    const auto tokenizer = parse_bpe_tokenizer(document.dump(), "test.json");
    return tokenizer.ok() ? std::string("accepted") : tokenizer.error().message();
  };
  auto document = small_bpe({});
  document["model"]["type"] = "Unigram";
  EXPECT_THAT(refusal(document), ::testing::HasSubstr("Unigram"));
  document = small_bpe({});
  document["normalizer"] = {{"type", "NFC"}};
  EXPECT_THAT(refusal(document), ::testing::HasSubstr("normalizer"));
  document = small_bpe({});
  document["pre_tokenizer"] = {{"type", "Metaspace"}};
  EXPECT_THAT(refusal(document), ::testing::HasSubstr("pre-tokenizer"));
  document = small_bpe({});
  document["model"]["vocab"].erase("a");
  EXPECT_THAT(refusal(document), ::testing::HasSubstr("byte 97"));
  document = small_bpe({});
  document["model"]["merges"] = {"zz yy"};
  EXPECT_THAT(refusal(document), ::testing::HasSubstr("merge"));
}

TEST(BpeTokenizer, DamagedFilesAreRefused) {
  const std::string whole = small_bpe({{"a", "b"}}).dump();
  for (std::size_t cut = 0; cut < whole.size(); cut += 97) {
    EXPECT_FALSE(parse_bpe_tokenizer(std::string_view(whole).substr(0, cut), "cut.json").ok());
  }
  for (const char* odd : {"[]", "7", "{\"model\":3}", "{\"model\":{\"vocab\":[]}}"}) {
    EXPECT_FALSE(parse_bpe_tokenizer(odd, "odd.json").ok());
  }
}

}  // namespace
}  // namespace planaria
