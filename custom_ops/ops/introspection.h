// What the library tells about itself.
#pragma once

#include <string>

namespace bqc {

// Remembers a created kernel for BqcKernelNames.
void note_kernel(const std::string& node, const char* op, const char* level);

}  // namespace bqc
