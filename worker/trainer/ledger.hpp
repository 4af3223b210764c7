// The ledger of a worker's incarnation: which micro-batches it took through which blocks, in a file that survives
// SIGKILL.
//
// Records are stored into a shared file mapping, so that they outlive the process the moment they are written (not a
// crash of the machine: nothing decides by them). They prove what the job's counters claim: over all ledgers and for
// every block, computed micro-batches = committed steps × M + those computed again. Byte layout: docs/FORMATS.md.
//
// Thread contract: a Ledger belongs to one thread; read_ledger may run beside a writer, in any process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/layout.hpp"

namespace planaria {

inline constexpr std::uint32_t kLedgerVersion = 2;
inline constexpr std::size_t kLedgerHeaderBytes = 64;
inline constexpr std::size_t kLedgerRecordBytes = 40;

struct LedgerRecord {
  Step step;
  MicroBatchIndex micro_batch;
  BlockRange blocks;  // the stage's
  std::uint32_t attempt = 0;
  ViewNumber view;         // in which it was ordered; the low 32 bits are kept
  bool recompute = false;  // of a stage taken over from a lost worker
  Instant at{};            // when it was finished, the host's monotonic clock

  bool operator==(const LedgerRecord&) const = default;
};

struct LedgerContent {
  WorkerId worker;
  Incarnation incarnation;
  std::vector<LedgerRecord> records;
};

class Ledger {
 public:
  // Makes the file and its directory; an existing file is an error (an incarnation begins once).
  [[nodiscard]] static Result<std::unique_ptr<Ledger>> create(const std::string& path, WorkerId worker,
                                                              Incarnation incarnation);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // exhausted when the file can't grow; the record is lost then, later calls try again.
  [[nodiscard]] Status append(const LedgerRecord& record);
  [[nodiscard]] std::uint64_t size() const { return count_; }

 private:
  Ledger(int file, std::string path) : file_(file), path_(std::move(path)) {}
  [[nodiscard]] Status grow();

  int file_;
  std::string path_;
  std::byte* mapping_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::uint64_t count_ = 0;
};

// Reads what is there; corrupt when the header is not a ledger's. Records end at the first that was not finished.
[[nodiscard]] Result<LedgerContent> read_ledger(const std::string& path);

// Where a run keeps the ledger of an incarnation: "<out>/workers/<id>/ledger.<incarnation>".
[[nodiscard]] std::string ledger_path(const std::string& out_directory, WorkerId worker, Incarnation incarnation);

}  // namespace planaria
