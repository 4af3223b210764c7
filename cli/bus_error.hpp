// SIGBUS: the kernel can't give a page of a mapped file, as the file shrank or its disk failed. Text and token shards
// are mapped, and nothing can be computed without them.
//
// Thread contract: start of the process.
#pragma once

namespace planaria {

// From now on the process says so on standard error and ends with the exit code of bad data.
void tell_bus_errors();

}  // namespace planaria
