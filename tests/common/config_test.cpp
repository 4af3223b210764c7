#include "common/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/philox.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;

enum class Mode : std::uint8_t { slow, fast, count_ };
constexpr std::array<std::string_view, 2> kModes{"slow", "fast"};

struct Fault {
  std::string kind;
  std::uint32_t at_step = 0;
};

struct Settings {
  std::string name = "default";
  std::uint16_t port = 80;
  double rate = 0.5;
  bool loud = false;
  Mode mode = Mode::slow;
  std::string file;
  std::uint32_t steps = 10;
  std::vector<Fault> faults;
};

// What a program does: ask for its keys, then for the problems.
Result<Settings> read(Result<ConfigReader> opened) {
  PLANARIA_ASSIGN(ConfigReader reader, std::move(opened));
  Settings settings;
  reader.key("name", settings.name);
  reader.section("server");
  reader.key("port", settings.port, {1, 65535});
  reader.key("rate", settings.rate, {0.0, 1.0});
  reader.key("loud", settings.loud);
  reader.key("mode", settings.mode, kModes);
  reader.path("file", settings.file);
  reader.section("train");
  reader.key("max_steps", settings.steps, {1, 1000});
  reader.each("fault", [&](ConfigReader& entry, std::size_t) {
    Fault& fault = settings.faults.emplace_back();
    entry.key("kind", fault.kind);
    if (!entry.key("at_step", fault.at_step, {1})) entry.refuse("at_step", "is missing");
  });
  PLANARIA_TRY(reader.finish());
  return settings;
}

Result<Settings> read(std::string_view text, const std::vector<std::string>& flags = {}, const Environment& env = {}) {
  return read(ConfigReader::from_text(text, "a.toml", flags, env));
}

std::string problem(std::string_view text, const std::vector<std::string>& flags = {}, const Environment& env = {}) {
  const auto settings = read(text, flags, env);
  return settings ? "none" : settings.error().message();
}

TEST(Config, AbsentKeysKeepTheirDefaults) {
  const auto settings = read("");
  ASSERT_TRUE(settings) << settings.error().describe();
  EXPECT_EQ(settings->name, "default");
  EXPECT_EQ(settings->port, 80);
}

TEST(Config, EveryTypeIsRead) {
  const auto settings = read(
      "name = \"n\"\n[server]\nport = 8_080\nrate = 1\nloud = true\nmode = \"fast\"\nfile = \"f\"\n"
      "[[fault]]\nkind = \"kill\"\nat_step = 3\n[[fault]]\nkind = \"stop\"\nat_step = 4\n");
  ASSERT_TRUE(settings) << settings.error().describe();
  EXPECT_EQ(settings->name, "n");
  EXPECT_EQ(settings->port, 8080);
  EXPECT_EQ(settings->rate, 1.0);
  EXPECT_TRUE(settings->loud);
  EXPECT_EQ(settings->mode, Mode::fast);
  ASSERT_EQ(settings->faults.size(), 2U);
  EXPECT_EQ(settings->faults[1].kind, "stop");
  EXPECT_EQ(settings->faults[1].at_step, 4U);
}

TEST(Config, AFlagWinsOverTheEnvironmentWhichWinsOverTheFile) {
  const std::string_view file = "[server]\nport = 1\n[train]\nmax_steps = 1\n";
  const Environment env{{"PLANARIA_SERVER_PORT", "2"}, {"PLANARIA_TRAIN_MAX_STEPS", "2"}};
  const auto settings = read(file, {"server.port=3", "server.port=4"}, env);
  ASSERT_TRUE(settings) << settings.error().describe();
  EXPECT_EQ(settings->port, 4) << "the last flag holds";
  EXPECT_EQ(settings->steps, 2U);
}

TEST(Config, FlagsReachEveryType) {
  const auto settings = read("", {"name=a = b", "server.rate=2.5e-1", "server.loud=true", "server.mode=fast"});
  ASSERT_TRUE(settings) << settings.error().describe();
  EXPECT_EQ(settings->name, "a = b");
  EXPECT_EQ(settings->rate, 0.25);
  EXPECT_TRUE(settings->loud);
  EXPECT_EQ(settings->mode, Mode::fast);
}

TEST(Config, AnUnknownKeyGetsASuggestion) {
  EXPECT_EQ(problem("[server]\nprot = 1\n"), "a.toml:2: server.prot: unknown key; did you mean \"port\"?");
  EXPECT_EQ(problem("[server]\nmax_steps = 1\n"), "a.toml:2: server.max_steps: unknown key; it belongs into [train]");
  EXPECT_EQ(problem("nmae = \"x\"\n"), "a.toml:1: nmae: unknown key; did you mean \"name\"?");
  EXPECT_THAT(problem("[server]\nzzzzzz = 1\n"), HasSubstr("known here: file, loud, mode, port, rate"));
}

TEST(Config, AnUnknownSectionGetsASuggestion) {
  EXPECT_EQ(problem("[sever]\nport = 1\n"), "a.toml:1: [sever]: unknown section; did you mean [server]?");
  EXPECT_EQ(problem("[[falt]]\nkind = \"x\"\n"), "a.toml:1: [falt]: unknown section; did you mean [fault]?");
}

TEST(Config, UnknownFlagsAndVariablesGetASuggestion) {
  EXPECT_EQ(problem("", {"server.prot=1"}), "--set server.prot: unknown key; did you mean \"server.port\"?");
  EXPECT_EQ(problem("", {}, {{"PLANARIA_SERVER_PROT", "1"}}),
            "variable PLANARIA_SERVER_PROT: names no key; did you mean PLANARIA_SERVER_PORT?");
  EXPECT_EQ(problem("", {}, {{"PLANARIA_ELSEWHERE", "1"}}), "none") << "may be meant for another program";
}

TEST(Config, IllTypedValuesNameTheirPlaceAndWhatWasExpected) {
  EXPECT_EQ(problem("\n[server]\nport = \"x\"\n"),
            "a.toml:3: server.port: expected an integer from 1 to 65535, found the string \"x\"");
  EXPECT_EQ(problem("[server]\nport = 1.0\n"), "a.toml:2: server.port: expected an integer from 1 to 65535, found 1");
  EXPECT_EQ(problem("[server]\nloud = 1\n"), "a.toml:2: server.loud: expected true or false, found 1");
  EXPECT_EQ(problem("name = 3\n"), "a.toml:1: name: expected a string in quotes, found 3");
  EXPECT_EQ(problem("[server]\nmode = \"fsat\"\n"),
            "a.toml:2: server.mode: expected one of \"slow\", \"fast\" (did you mean \"fast\"?), found the string "
            "\"fsat\"");
  EXPECT_EQ(problem("", {"server.port=1x"}),
            "--set server.port: server.port: expected an integer from 1 to 65535, found \"1x\"");
}

TEST(Config, ValuesOutOfRangeAreRefused) {
  EXPECT_THAT(problem("[server]\nport = 0\n"), HasSubstr("from 1 to 65535, found 0"));
  EXPECT_THAT(problem("[server]\nport = 65536\n"), HasSubstr("found 65536"));
  EXPECT_THAT(problem("", {"server.port=99999999999999999999"}), HasSubstr("from 1 to 65535"));
  EXPECT_THAT(problem("[server]\nrate = 1.5\n"), HasSubstr("a number from 0 to 1, found 1.5"));
  EXPECT_THAT(problem("[server]\nrate = nan\n"), HasSubstr("a number from 0 to 1"));
  EXPECT_THAT(problem("", {"server.rate=inf"}), HasSubstr("a number from 0 to 1"));
}

TEST(Config, SectionsAndArraysOfTheWrongShapeAreRefused) {
  EXPECT_EQ(problem("server = 3\n"), "a.toml:1: server: expected a section, [server], found 3");
  EXPECT_EQ(problem("[fault]\nkind = \"x\"\n"), "a.toml:1: fault: expected tables, [[fault]], found a table");
  EXPECT_EQ(problem("[server.port]\nx = 1\n"),
            "a.toml:1: server.port: expected an integer from 1 to 65535, found a table");
}

TEST(Config, ProblemsInsideAnArrayNameTheirElement) {
  EXPECT_EQ(problem("[[fault]]\nkind = \"a\"\nat_step = 1\n[[fault]]\nkind = \"b\"\n"),
            "a.toml:4: fault.at_step: is missing");
  EXPECT_EQ(problem("[[fault]]\nat_step = 1\nkid = \"b\"\n"),
            "a.toml:3: fault.kid: unknown key; did you mean \"kind\"?");
}

TEST(Config, AllProblemsAreToldTogether) {
  const std::string all = problem("nme = 1\n[server]\nport = 0\n", {"server.loud=maybe"});
  EXPECT_THAT(all, HasSubstr("nme"));
  EXPECT_THAT(all, HasSubstr("server.port"));
  EXPECT_THAT(all, HasSubstr("server.loud"));
}

TEST(Config, TextThatIsNotTomlNamesTheLine) {
  EXPECT_THAT(problem("a = 1\nb = = 2\n"), HasSubstr("a.toml:2: not TOML"));
  EXPECT_THAT(problem("a = 1\na = 2\n"), HasSubstr("a.toml:2: not TOML"));
  EXPECT_THAT(problem("a = \"\xff\"\n"), HasSubstr("not TOML"));
  EXPECT_THAT(problem("a = " + std::string(5000, '[')), HasSubstr("not TOML"));
}

TEST(Config, AFlagWithoutAValueIsRefused) {
  EXPECT_THAT(problem("", {"server.port"}), HasSubstr("expected section.key=value"));
}

// A directory with a file in it, gone at the end.
class ConfigFile : public testing::Test {
 protected:
  std::string write(const std::string& text) {
    const std::string path = directory_ + "/job.toml";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  const TemporaryDirectory temporary_;
  const std::string directory_ = temporary_.path();
};

TEST_F(ConfigFile, RelativePathsOfAFileCountFromItsDirectory) {
  const std::string path = write("[server]\nfile = \"sub/../data.txt\"\n");
  EXPECT_EQ(read(ConfigReader::from_file(path))->file, directory_ + "/data.txt");
  const std::vector<std::string> flags{"server.file=here.txt"};
  EXPECT_EQ(read(ConfigReader::from_file(path, flags))->file, (std::filesystem::current_path() / "here.txt").string());
  const std::string near = std::filesystem::relative(path).string();  // absolute in spite of that
  EXPECT_EQ(read(ConfigReader::from_file(near))->file, directory_ + "/data.txt");
  EXPECT_EQ(read(ConfigReader::from_text("[server]\nfile = \"its.txt\"\n", "text"))->file, "its.txt");
}

TEST_F(ConfigFile, MissingFilesDirectoriesAndHugeFilesAreRefused) {
  EXPECT_EQ(ConfigReader::from_file(directory_ + "/no.toml").error().code(), ErrorCode::not_found);
  EXPECT_THAT(ConfigReader::from_file(directory_).error().message(), HasSubstr("is a directory"));
  const std::string huge = write(std::string(kMaxConfigBytes + 1, '#'));
  EXPECT_THAT(ConfigReader::from_file(huge).error().message(), HasSubstr("larger than"));
}

TEST(Config, WhatAWriterWritesAReaderReads) {
  ConfigWriter writer;
  writer.section("");
  writer.key("name", std::string("tab\t \"quote\" back\\slash \x01 é"));
  writer.section("server");
  writer.key("port", std::uint16_t{443}, {});
  writer.key("rate", 1e-5, {});
  writer.key("loud", true);
  writer.key("mode", Mode::fast, kModes);
  const auto settings = read(writer.text());
  ASSERT_TRUE(settings) << settings.error().describe() << writer.text();
  EXPECT_EQ(settings->name, "tab\t \"quote\" back\\slash \x01 é");
  EXPECT_EQ(settings->rate, 1e-5);
  EXPECT_EQ(settings->mode, Mode::fast);
}

TEST(Config, NearestFindsTyposAndSwapsButNothingFarOff) {
  const std::vector<std::string> words{"layers", "heads", "width"};
  EXPECT_EQ(nearest("layer", words), "layers");
  EXPECT_EQ(nearest("ehads", words), "heads");
  EXPECT_EQ(nearest("optimizer", words), "");
  EXPECT_EQ(nearest(std::string(100000, 'a'), words), "");
}

TEST(Config, RandomDamageNeverCrashes) {
  constexpr std::uint64_t kSeed = 7;
  PhiloxStream random(philox_key(kSeed, RandomPurpose::tests));
  const std::string good = "name = \"n\"\n[server]\nport = 80\nrate = 0.5\n[[fault]]\nkind = \"kill\"\nat_step = 3\n";
  for (int round = 0; round < 3000; ++round) {
    std::string text = good;
    for (std::uint64_t edits = 1 + random.below(5); edits > 0; --edits) {
      text[random.below(text.size())] = static_cast<char>(random.next_u32());
    }
    const auto settings = read(text);
    if (!settings) {
      ASSERT_EQ(settings.error().code(), ErrorCode::invalid_argument) << kSeed << ", " << round;
    }
  }
}

}  // namespace
}  // namespace planaria
