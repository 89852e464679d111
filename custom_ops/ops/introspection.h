// What the library tells about itself.
#pragma once

#include <string>

namespace bqc {

// Remembers a created kernel, the instructions that it works by and why these, for BqcKernelNames.
void note_kernel(const std::string& node, const char* op, const char* level, const std::string& by,
                 const std::string& reason);

}  // namespace bqc
