// A worker's transport in a process of its own, for tests that kill or stop it. It prints its address in hex, reads
// its parent's from standard input, connects, sends one frame "ready", and then echoes every frame until it is killed
// or its input ends.
//
// usage: transport_peer WORKER INCARNATION PARENT_WORKER
#include <cstdio>
#include <iostream>
#include <latch>
#include <string>

#include "common/transport/ucx_transport.hpp"

namespace {

std::string to_hex(const planaria::ByteVector& bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

planaria::ByteVector from_hex(const std::string& text) {
  planaria::ByteVector bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

planaria::PeerId peer(const char* worker, const char* incarnation) {
  return {planaria::WorkerId(static_cast<std::uint32_t>(std::stoul(worker))),
          planaria::Incarnation(static_cast<std::uint32_t>(std::stoul(incarnation)))};
}

}  // namespace

int main(int argc, char** argv) {
  using namespace planaria;
  if (argc != 4) return 2;
  UcxOptions options;
  options.self = peer(argv[1], argv[2]);
  const PeerId parent = peer(argv[3], "1");
  auto made = make_ucx_transport(options);
  if (!made) {
    std::cerr << made.error().describe() << '\n';
    return 1;
  }
  Transport& transport = **made;
  // The parent's frames may be here before this end's connection, over which they are answered.
  std::latch connected(1);
  const auto echo = [&](const InboundFrame& frame) {
    connected.wait();
    OutgoingFrame answer;
    answer.view = frame.header.view;
    answer.tag = frame.header.tag;
    answer.payload = {{frame.payload.bytes, frame.payload.owner}};
    transport.send(parent.worker, std::move(answer), [](const Status&) {});
  };
  if (!transport.start({echo, [](const TransportEvent&) {}})) return 1;
  transport.set_view(ViewNumber(1));
  std::cout << to_hex(transport.address()) << std::endl;
  std::string line;
  const bool joined = std::getline(std::cin, line) && transport.connect(parent, from_hex(line)).ok();
  connected.count_down();
  if (!joined) return 1;
  OutgoingFrame ready;
  ready.view = ViewNumber(1);
  static constexpr char kText[] = {'r', 'e', 'a', 'd', 'y'};
  ready.payload = {{std::as_bytes(std::span(kText)), nullptr}};
  transport.send(parent.worker, std::move(ready), [](const Status&) {});
  while (std::getline(std::cin, line)) {
  }
  transport.stop();
  return 0;
}
