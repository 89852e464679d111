// The numbers of bqc/ops/constants.py; a test compares the two files.
#pragma once

namespace bqc {

constexpr int kMinExponent = -126;
constexpr int kMaxStaticExponent = 119;
constexpr int kNormBits = 20;
constexpr float kLog2E = 0x1.715476p+0f;
constexpr float kSoftmaxScale = 0x1.fep+7f;
constexpr float kSoftmaxLow = -0x1.8p+4f;
constexpr float kFloatSoftmaxLow = -0x1.0p+6f;
constexpr float kTanhLimit = 0x1.2p+3f;
constexpr float kGeluLimit = 0x1.4p+2f;
constexpr float kFltMax = 0x1.fffffep+127f;
constexpr float kExp2[7] = {0x1.0p+0f,     0x1.62e42cp-1f,  0x1.ebfd5ap-3f, 0x1.c688fp-5f,
                            0x1.3d0c4p-7f, 0x1.46d326p-10f, 0x1.c5464p-13f};
constexpr float kGeluErf[13] = {0x1.218356p-3f, -0x1.1fef12p-4f, 0x1.a60f72p-5f,  -0x1.4b4ac4p-5f,
                                0x1.0184a8p-5f, -0x1.7d68f6p-6f, 0x1.0d453ap-6f,  -0x1.6ced1cp-7f,
                                0x1.9f85d6p-8f, -0x1.640882p-9f, 0x1.d592aep-10f, -0x1.a3af5p-10f,
                                0x1.321bcp-11f};
constexpr float kGeluTanh[13] = {0x1.218b0ep-3f, -0x1.203802p-4f, 0x1.a72e3p-5f,  -0x1.4c1a02p-5f,
                                 0x1.00bc1ep-5f, -0x1.793d2ap-6f, 0x1.075732p-6f, -0x1.56b9fp-7f,
                                 0x1.76e278p-8f, -0x1.8d0492p-9f, 0x1.5d896ep-9f, -0x1.0d1884p-9f,
                                 0x1.4d45c8p-11f};

}  // namespace bqc
