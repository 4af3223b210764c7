# Writes a C++ source that holds a file's bytes: cmake -DINPUT=... -DOUTPUT=... -P embed.cmake
file(READ "${INPUT}" bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE "${OUTPUT}" "#include \"coordinator/dashboard/dashboard.hpp\"

namespace planaria {

namespace {

constexpr unsigned char kPage[] = {${bytes}};

}  // namespace

std::string_view status_page() { return {reinterpret_cast<const char*>(kPage), sizeof kPage}; }

}  // namespace planaria
")
