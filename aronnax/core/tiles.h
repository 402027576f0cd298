/* What products of whole numbers with AMX are made of, for `tiles.c` and `tiles_attention.c`.
 *
 * A number of 16 bits is 256 times a high byte plus a low one, both signed; one of 8 bits is a high byte alone.
 * Bytes lie in tiles of 1 KiB, as the processor multiplies them: of an input 16 rows and 64 columns, of a weight 16
 * outputs and 64 inputs, four inputs of an output side by side. The planes (high, low) of a tile follow each other,
 * then come the tiles along the inputs, which make a strip, then the strips along the rows or outputs.
 */

#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define WITH_AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl,avx512dq")))

enum { EDGE = 16, DEPTH = 64, TILE = EDGE * DEPTH };
enum { NOTHING, RELU, SILU };
#define LARGEST 32639.0f
#define LOG2_E 1.44269504f

static inline long ceiling(long count, long size) { return (count + size - 1) / size; }

/* The first `left` of sixteen numbers, which may be more than there are, or none. */
static inline __mmask16 first_of(long left) { return left >= 16 ? 0xffff : left > 0 ? (1 << left) - 1 : 0; }

/* --- inputs --- */

/* Sixteen whole numbers as bytes. */
WITH_AMX static inline void store_bytes(__m512i whole, int planes, int8_t *high, int8_t *low) {
    __m512i bytes = planes == 2 ? _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8) : whole;
    _mm_store_si128((__m128i *)high, _mm512_cvtepi32_epi8(bytes));
    if (planes == 2) _mm_store_si128((__m128i *)low, _mm512_cvtepi32_epi8(whole));
}

/* The larger of `largest`, the bits of a magnitude, and |x|. As bits, magnitudes are in the order of the numbers, and
 * what is not a number is larger than all. */
WITH_AMX static inline __m512i larger(__m512i largest, __m512 x) {
    return _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}

/* What every largest magnitude starts from, so that it can be divided by. */
WITH_AMX static inline __m512i smallest(void) { return _mm512_castps_si512(_mm512_set1_ps(1e-30f)); }

/* A row of floats, its whole numbers 64 a tile from `tiles` on, and its largest magnitude. */
WITH_AMX static inline void round_row(const float *row, long columns, int planes, int8_t *tiles, float *peak) {
    __m512i largest = smallest();
    for (long k = 0; k < columns; k += 16)
        largest = larger(largest, _mm512_maskz_loadu_ps(first_of(columns - k), row + k));
    int32_t found = _mm512_reduce_max_epi32(largest);
    memcpy(peak, &found, sizeof found);

    const __m512 scale = _mm512_set1_ps((planes == 2 ? LARGEST : 127.0f) / *peak);
    for (long k = 0; k < columns; k += DEPTH, tiles += planes * TILE)
        for (long part = 0; part < DEPTH; part += 16) {
            __m512 x = _mm512_maskz_loadu_ps(first_of(columns - k - part), row + k + part);
            store_bytes(_mm512_cvtps_epi32(_mm512_mul_ps(x, scale)), planes, tiles + part, tiles + TILE + part);
        }
}

/* --- products --- */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) Shape;

/* All eight tiles are whole ones. Not on the stack: compilers drop what they do not see the instruction read. */
static const Shape SHAPE = {
    .palette = 1, .bytes = {DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH, DEPTH},
    .rows = {EDGE, EDGE, EDGE, EDGE, EDGE, EDGE, EDGE, EDGE}};

typedef struct {
    const float *peak, *unit, *bias;
    float *out;
    long outputs, stride;
    int planes, then;
} Finish;

typedef int32_t Sums[EDGE * EDGE] __attribute__((aligned(64)));

/* 2 to a power in [-126, 126], right to a few roundings. */
WITH_AMX static inline __m512 power_of_two(__m512 power) {
    /* The power of the rest, which lies in [-1/2, 1/2], by its series. */
    static const float series[] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f};
    __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_sub_ps(power, whole), found = _mm512_set1_ps(1.5403530e-4f);
    for (int i = 0; i < 6; i++) found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(series[i]));
    return _mm512_scalef_ps(found, whole);
}

/* x / (1 + exp(-x)). */
WITH_AMX static inline __m512 silu(__m512 x) {
    /* Below -80 it is as good as zero; powers beyond it would be too small for the processor to be fast with. */
    x = _mm512_max_ps(_mm512_set1_ps(-80.0f), x);
    __m512 power = _mm512_mul_ps(_mm512_min_ps(_mm512_set1_ps(80.0f), x), _mm512_set1_ps(-LOG2_E));
    __m512 below = _mm512_add_ps(power_of_two(power), _mm512_set1_ps(1.0f));
    /* 14 bits of 1 / below, then a step of Newton's. */
    __m512 inverse = _mm512_rcp14_ps(below);
    inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(below, inverse, _mm512_set1_ps(2.0f)));
    return _mm512_mul_ps(x, inverse);
}

/* One tile of outputs: its sums become floats at their place. */
WITH_AMX static inline void finish(
    const Finish *to, const Sums high, const Sums low, long row, long rows, long column) {
    __mmask16 inside = first_of(to->outputs - column);
    __m512 unit = _mm512_maskz_loadu_ps(inside, to->unit + column);
    __m512 bias = to->bias ? _mm512_maskz_loadu_ps(inside, to->bias + column) : _mm512_setzero_ps();
    const __m512 byte = _mm512_set1_ps(256.0f);
    for (long i = 0; i < rows; i++) {
        __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(high + i * EDGE));
        if (to->planes == 2) {
            __m512 rest = _mm512_cvtepi32_ps(_mm512_load_si512(low + i * EDGE));
            sum = _mm512_fmadd_ps(sum, byte, rest);
        }
        sum = _mm512_fmadd_ps(sum, _mm512_mul_ps(unit, _mm512_set1_ps(to->peak[row + i])), bias);
        /* The second of the two is taken where one is not a number. */
        if (to->then == RELU) sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
        if (to->then == SILU) sum = silu(sum);
        _mm512_mask_storeu_ps(to->out + (row + i) * to->stride + column, inside, sum);
    }
}

/* Two strips of rows times one of outputs, `strip` bytes each -> sums high 0, low 0, high 1, low 1.
 *
 * Low bytes times low bytes are left out: they are worth what rounding to 16 bits costs.
 */
WITH_AMX static inline void multiply_strips(
    const int8_t *first, const int8_t *second, const int8_t *weight, long strip, int planes, Sums sums[4]) {
    /* What the tiles are loaded from has to be written by now, which the compiler is not told otherwise. */
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < strip; k += planes * TILE) {
        _tile_loadd(4, first + k, DEPTH);
        _tile_loadd(5, second + k, DEPTH);
        _tile_loadd(6, weight + k, DEPTH);
        if (planes == 2) _tile_loadd(7, weight + k + TILE, DEPTH);
        _tile_dpbssd(0, 4, 6);
        if (planes == 2) _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        if (planes == 2) {
            _tile_dpbssd(3, 5, 7);
            _tile_loadd(4, first + k + TILE, DEPTH);
            _tile_loadd(5, second + k + TILE, DEPTH);
            _tile_dpbssd(1, 4, 6);
            _tile_dpbssd(3, 5, 6);
        }
    }
    _tile_stored(0, sums[0], DEPTH);
    _tile_stored(1, sums[1], DEPTH);
    _tile_stored(2, sums[2], DEPTH);
    _tile_stored(3, sums[3], DEPTH);
}

/* Up to 32 rows of an input, whose strips of 16 lie `apart` bytes apart, and what becomes of their products. */
typedef struct {
    const int8_t *tiles;
    long apart, row, rows;
    const Finish *to;
} Rows;

WITH_AMX static inline void finish_rows(const Rows *given, Sums sums[4], long column) {
    long above = given->rows < EDGE ? given->rows : EDGE;
    finish(given->to, sums[0], sums[1], given->row, above, column);
    finish(given->to, sums[2], sums[3], given->row + EDGE, given->rows - above, column);
}

/* Times the strips of a weight from `begin` to `end`, `length` bytes of each.
 *
 * Sums lie for a round before they are read: the processor goes on multiplying until they have arrived.
 */
WITH_AMX static inline void multiply_rows(
    const Rows *given, const int8_t *weight, long length, long begin, long end, int planes) {
    Sums sums[2][4];
    const int8_t *second = given->tiles + (given->rows > EDGE) * given->apart;
    for (long at = begin; at < end; at++) {
        multiply_strips(given->tiles, second, weight + at * given->apart, length, planes, sums[at % 2]);
        if (at > begin) finish_rows(given, sums[1 - at % 2], (at - 1) * EDGE);
    }
    if (begin < end) finish_rows(given, sums[(end - 1) % 2], (end - 1) * EDGE);
}
