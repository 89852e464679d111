// What the library tells about itself.
#pragma once

#include <string>

namespace bqc {

// Remembers a created kernel for BqcKernelNames.
void note_kernel(const std::string& node, const char* op, const char* level);

// One line a check of every runnable level against the portable one; returns the number of failures.
int self_test(std::string* report);

}  // namespace bqc
