#include "worker/trainer/ledger.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "common/file.hpp"

namespace planaria {

namespace {

constexpr char kMagic[8] = {'P', 'L', 'A', 'N', 'L', 'D', 'G', 'R'};
constexpr std::size_t kGrowBytes = 1U << 20;
constexpr std::uint64_t kMaxLedgerBytes = 1ULL << 32;
constexpr std::uint32_t kFinished = 1;
constexpr std::uint32_t kRecompute = 2;

struct Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t record_bytes;
  std::uint32_t worker;
  std::uint32_t incarnation;
  std::uint8_t reserved[40];
};
static_assert(sizeof(Header) == kLedgerHeaderBytes);

struct Record {
  std::uint64_t step;
  std::int64_t at_ns;
  std::uint32_t micro_batch;
  std::uint32_t first_block;
  std::uint32_t end_block;
  std::uint32_t attempt;
  std::uint32_t view;
  std::uint32_t flags;  // written last: a record without kFinished is not there
};
static_assert(sizeof(Record) == kLedgerRecordBytes);

}  // namespace

Result<std::unique_ptr<Ledger>> Ledger::create(const std::string& path, WorkerId worker, Incarnation incarnation) {
  PLANARIA_TRY(posix_file_system().make_directories(parent_path(path)));
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) return file_error(errno, "create the ledger", path);
  std::unique_ptr<Ledger> ledger(new Ledger(file, path));
  PLANARIA_TRY(ledger->grow());
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kLedgerVersion;
  header.record_bytes = kLedgerRecordBytes;
  header.worker = worker.value();
  header.incarnation = incarnation.value();
  std::memcpy(ledger->mapping_, &header, sizeof header);
  return ledger;
}

Ledger::~Ledger() {
  if (mapping_ != nullptr) {
    ::munmap(mapping_, mapped_bytes_);
    // The reserve behind the last record serves nobody any more; a failure leaves zeros, which read as "not there".
    if (::ftruncate(file_, static_cast<off_t>(kLedgerHeaderBytes + count_ * kLedgerRecordBytes)) != 0) errno = 0;
  }
  ::close(file_);
}

Status Ledger::grow() {
  const std::size_t wanted = mapped_bytes_ + kGrowBytes;
  // Reserved, not sparse: a store into a hole on a full disk would be SIGBUS.
  if (const int failure = ::posix_fallocate(file_, 0, static_cast<off_t>(wanted)); failure != 0) {
    return file_error(failure, "grow the ledger", path_);
  }
  void* mapping = mapping_ == nullptr
                      ? ::mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file_, 0)
                      : ::mremap(mapping_, mapped_bytes_, wanted, MREMAP_MAYMOVE);
  if (mapping == MAP_FAILED) return file_error(errno, "map the ledger", path_);
  mapping_ = static_cast<std::byte*>(mapping);
  mapped_bytes_ = wanted;
  return ok_status();
}

Status Ledger::append(const LedgerRecord& record) {
  const std::size_t at = kLedgerHeaderBytes + count_ * kLedgerRecordBytes;
  if (at + kLedgerRecordBytes > mapped_bytes_) PLANARIA_TRY(grow());
  const Record raw{.step = record.step.value(),
                   .at_ns = record.at.ns,
                   .micro_batch = record.micro_batch.value(),
                   .first_block = record.blocks.begin,
                   .end_block = record.blocks.end,
                   .attempt = record.attempt,
                   .view = static_cast<std::uint32_t>(record.view.value()),
                   .flags = 0};
  std::memcpy(mapping_ + at, &raw, sizeof raw);
  auto* flags = reinterpret_cast<std::uint32_t*>(mapping_ + at + offsetof(Record, flags));
  std::atomic_ref<std::uint32_t>(*flags).store(kFinished | (record.recompute ? kRecompute : 0U),
                                               std::memory_order_release);
  ++count_;
  return ok_status();
}

Result<LedgerContent> read_ledger(const std::string& path) {
  PLANARIA_ASSIGN(const std::string bytes, read_file(posix_file_system(), path, kMaxLedgerBytes));
  Header header{};
  if (bytes.size() < sizeof header) return Error(ErrorCode::corrupt, path + ": too short for a ledger");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) {
    return Error(ErrorCode::corrupt, path + ": not a ledger (wrong magic bytes)");
  }
  if (header.version != kLedgerVersion || header.record_bytes != kLedgerRecordBytes) {
    return Error(ErrorCode::mismatch, path + ": ledger version " + std::to_string(header.version) +
                                          ", this program reads version " + std::to_string(kLedgerVersion));
  }
  LedgerContent content{WorkerId(header.worker), Incarnation(header.incarnation), {}};
  for (std::size_t at = sizeof header; at + kLedgerRecordBytes <= bytes.size(); at += kLedgerRecordBytes) {
    Record raw{};
    std::memcpy(&raw, bytes.data() + at, sizeof raw);
    if ((raw.flags & kFinished) == 0) break;
    content.records.push_back({.step = Step(raw.step),
                               .micro_batch = MicroBatchIndex(raw.micro_batch),
                               .blocks = {raw.first_block, raw.end_block},
                               .attempt = raw.attempt,
                               .view = ViewNumber(raw.view),
                               .recompute = (raw.flags & kRecompute) != 0,
                               .at = Instant{raw.at_ns}});
  }
  return content;
}

std::string ledger_path(const std::string& out_directory, WorkerId worker, Incarnation incarnation) {
  return join_path(out_directory,
                   "workers/" + std::to_string(worker.value()) + "/ledger." + std::to_string(incarnation.value()));
}

}  // namespace planaria
