// Latency and throughput of the UCX transport over loopback, two transports in one process. Prints one line a case;
// no assertion, since it depends on the machine and its load.
//
// usage: transport_bench [endpoints [chunk KiB [rendezvous KiB [keyed]]]]
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <thread>
#include <vector>

#include "common/transport/inbox.hpp"
#include "common/transport/ucx_transport.hpp"

namespace {

using namespace planaria;

constexpr PeerId kLeft{WorkerId(1), Incarnation(1)};
constexpr PeerId kRight{WorkerId(2), Incarnation(1)};

OutgoingFrame frame_of(ConstSlice payload, std::uint64_t tag) {
  OutgoingFrame frame;
  frame.view = ViewNumber(1);
  frame.tag = tag;
  if (!payload.bytes.empty()) frame.payload = {std::move(payload)};
  return frame;
}

// Half of the round trips' times, each begun after `pause` of quiet.
std::vector<double> half_trips_us(Transport& left, std::size_t count, Duration pause,
                                  std::atomic<std::uint64_t>& back) {
  const SteadyClock clock;
  std::vector<double> times;
  for (std::size_t i = 1; i <= count; ++i) {
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    const Instant begin = clock.now();
    left.send(kRight.worker, frame_of({}, i), [](const Status&) {});
    for (std::uint64_t seen = back; seen < i; seen = back) back.wait(seen);
    times.push_back(static_cast<double>((clock.now() - begin).count()) / 2e3);
  }
  std::ranges::sort(times);
  back = 0;
  return times;
}

}  // namespace

int main(int argc, char** argv) {
  UcxOptions options;
  if (argc > 1) options.endpoints_per_peer = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  if (argc > 2) options.chunk_bytes = std::strtoul(argv[2], nullptr, 10) << 10;
  if (argc > 3) options.rendezvous_bytes = std::strtoul(argv[3], nullptr, 10) << 10;
  if (argc > 4) options.key.emplace().fill(std::byte{7});
  options.self = kLeft;
  auto left = make_ucx_transport(options);
  options.self = kRight;
  auto right = make_ucx_transport(options);
  if (!left || !right) return 1;
  Transport& a = **left;
  Transport& b = **right;
  std::atomic<std::uint64_t> back{0};
  std::atomic<std::uint64_t> received{0};
  const auto returned = [&](const InboundFrame& frame) {
    back = frame.header.tag;
    back.notify_all();
  };
  const auto arrived = [&](const InboundFrame& frame) {
    received += frame.payload.bytes.size();
    if (frame.payload.bytes.empty()) b.send(kLeft.worker, frame_of({}, frame.header.tag), [](const Status&) {});
  };
  const auto ignore = [](const TransportEvent&) {};
  if (!a.start({returned, ignore}) || !b.start({arrived, ignore})) return 1;
  if (!a.connect(kRight, b.address()) || !b.connect(kLeft, a.address())) return 1;
  a.set_view(ViewNumber(1));
  b.set_view(ViewNumber(1));

  half_trips_us(a, 50, Duration(0), back);
  for (const Duration pause : {Duration(0), Duration(std::chrono::milliseconds(2))}) {
    const auto times = half_trips_us(a, 500, pause, back);
    fmt::print("half round trip, {} before each: median {:.1f} us, 90 % {:.1f} us\n",
               pause.count() == 0 ? "nothing" : "2 ms of quiet", times[times.size() / 2], times[times.size() * 9 / 10]);
  }
  for (const std::size_t bytes : {std::size_t{64} << 10, std::size_t{1} << 20, std::size_t{16} << 20}) {
    const MutableSlice source = allocate_payload(bytes);
    std::memset(source.bytes.data(), 5, bytes);
    const std::size_t frames = (std::size_t{256} << 20) / bytes;
    for (const bool posted : {false, true}) {
      const MutableSlice target = allocate_payload(bytes);
      const SteadyClock clock;
      std::atomic<std::uint64_t> done{0};
      received = 0;
      const Instant begin = clock.now();
      for (std::size_t i = 0; i < frames; ++i) {
        if (posted) {
          b.post_receive({kLeft.worker, ViewNumber(1), 1, target}, [&](const Result<FrameHeader>& header) {
            if (header) received += header.value().payload_bytes;
          });
        }
      }
      for (std::size_t i = 0; i < frames; ++i) {
        a.send(kRight.worker, frame_of({source.bytes, source.owner}, 1), [&](const Status&) {
          ++done;
          done.notify_all();
        });
        for (std::uint64_t seen = done; seen + 8 < i; seen = done) done.wait(seen);
      }
      while (received < frames * bytes) std::this_thread::sleep_for(std::chrono::microseconds(200));
      const double seconds = to_seconds(clock.now() - begin);
      fmt::print("{:>5} KiB frames, {}: {:.2f} GB/s\n", bytes >> 10, posted ? "posted " : "handled",
                 static_cast<double>(frames * bytes) / seconds / 1e9);
    }
  }
  a.stop();
  b.stop();
  return 0;
}
