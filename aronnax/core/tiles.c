/* Products of whole numbers with AMX, for `aronnax/core/tiles.py`, which says what each argument is.
 *
 * A number of 16 bits is 256 times a high byte plus a low one, both signed; one of 8 bits is a high byte alone.
 * Bytes lie in tiles of 1 KiB, as the processor multiplies them: of an input 16 rows and 64 columns, of a weight 16
 * outputs and 64 inputs, four inputs of an output side by side. The planes (high, low) of a tile follow each other,
 * then come the tiles along the inputs, which make a strip, then the strips along the rows or outputs.
 */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WITH_AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl,avx512dq")))

enum { EDGE = 16, DEPTH = 64, TILE = EDGE * DEPTH };
enum { NOTHING, RELU, SILU };

/* Bytes of a weight that are multiplied by all rows before the next ones: they stay in the second cache. */
enum { NEAR = 512 * 1024 };

/* Whether the system lends the tiles to this process, which has to ask for them. */
int aronnax_tiles_are_lent(void) {
    enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

static inline long ceiling(long count, long size) { return (count + size - 1) / size; }

/* The first `left` of sixteen numbers, which may be more than there are, or none. */
static inline __mmask16 first_of(long left) { return left >= 16 ? 0xffff : left > 0 ? (1 << left) - 1 : 0; }

/* --- inputs --- */

WITH_AMX static void round_row(const float *row, long columns, int planes, int8_t *tiles, float *peak) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), half = _mm512_set1_epi32(128);
    /* As bits, magnitudes are in the order of the numbers, and what is not a number is the largest. */
    __m512i largest = _mm512_castps_si512(_mm512_set1_ps(1e-30f));
    for (long k = 0; k < columns; k += 16) {
        __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(first_of(columns - k), row + k));
        largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, magnitude));
    }
    int32_t found = _mm512_reduce_max_epi32(largest);
    memcpy(peak, &found, sizeof found);

    const __m512 scale = _mm512_set1_ps((planes == 2 ? 32639.0f : 127.0f) / *peak);
    for (long k = 0; k < columns; k += DEPTH, tiles += planes * TILE)
        for (long part = 0; part < DEPTH; part += 16) {
            __m512 x = _mm512_maskz_loadu_ps(first_of(columns - k - part), row + k + part);
            __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(x, scale)), high = whole;
            if (planes == 2) {
                high = _mm512_srai_epi32(_mm512_add_epi32(whole, half), 8);
                _mm_store_si128((__m128i *)(tiles + TILE + part), _mm512_cvtepi32_epi8(whole));
            }
            _mm_store_si128((__m128i *)(tiles + part), _mm512_cvtepi32_epi8(high));
        }
}

void aronnax_round(const float *x, long rows, long columns, int planes, int threads, int8_t *tiles, float *peak) {
    long strip = ceiling(columns, DEPTH) * planes * TILE;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long row = 0; row < rows; row++)
        round_row(x + row * columns, columns, planes, tiles + row / EDGE * strip + row % EDGE * DEPTH, peak + row);
}

/* --- products --- */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) Shape;

typedef struct {
    const float *peak, *unit, *bias;
    float *out;
    long outputs;
    int planes, then;
} Finish;

typedef int32_t Sums[EDGE * EDGE] __attribute__((aligned(64)));

/* x / (1 + exp(-x)), right to a few roundings. */
WITH_AMX static inline __m512 silu(__m512 x) {
    /* Below -80 it is as good as zero; powers beyond it would be too small for the processor to be fast with. */
    x = _mm512_max_ps(_mm512_set1_ps(-80.0f), x);
    __m512 power = _mm512_mul_ps(_mm512_min_ps(_mm512_set1_ps(80.0f), x), _mm512_set1_ps(-1.44269504f));
    __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_sub_ps(power, whole);
    /* 2 to the power of `rest`, which lies in [-1/2, 1/2], by its series. */
    static const float series[] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f};
    __m512 exp = _mm512_set1_ps(1.5403530e-4f);
    for (int i = 0; i < 6; i++) exp = _mm512_fmadd_ps(exp, rest, _mm512_set1_ps(series[i]));
    __m512 below = _mm512_add_ps(_mm512_scalef_ps(exp, whole), _mm512_set1_ps(1.0f));
    /* 14 bits of 1 / below, then a step of Newton's. */
    __m512 inverse = _mm512_rcp14_ps(below);
    inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(below, inverse, _mm512_set1_ps(2.0f)));
    return _mm512_mul_ps(x, inverse);
}

/* One tile of outputs: its sums become floats at their place. */
WITH_AMX static void finish(const Finish *to, const Sums high, const Sums low, long row, long rows, long column) {
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
        _mm512_mask_storeu_ps(to->out + (row + i) * to->outputs + column, inside, sum);
    }
}

/* Two strips of rows times one of outputs, `strip` bytes each -> sums high 0, low 0, high 1, low 1.
 *
 * Low bytes times low bytes are left out: they are worth what rounding to 16 bits costs.
 */
WITH_AMX static inline void multiply_strips(
    const int8_t *first, const int8_t *second, const int8_t *weight, long strip, int planes, Sums sums[4]) {
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

/* All rows times the strips of outputs from `begin` to `end`. */
WITH_AMX static void multiply_part(
    const int8_t *tiles, long rows, const int8_t *weight, long strip, long begin, long end, const Finish *to) {
    Shape shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shape.bytes[tile] = DEPTH;
        shape.rows[tile] = EDGE;
    }
    _tile_loadconfig(&shape);
    Sums sums[4];
    long near = NEAR / strip > 0 ? NEAR / strip : 1;
    for (long from = begin; from < end; from += near)
        for (long row = 0; row < rows; row += 2 * EDGE) {
            const int8_t *first = tiles + row / EDGE * strip;
            long left = rows - row, above = left < EDGE ? left : EDGE, below = left - above;
            if (below > EDGE) below = EDGE;
            const int8_t *second = below ? first + strip : first;
            for (long at = from; at < from + near && at < end; at++) {
                const int8_t *outputs = weight + at * strip;
                /* Told apart here, so that the compiler makes a loop of each. */
                if (to->planes == 2)
                    multiply_strips(first, second, outputs, strip, 2, sums);
                else
                    multiply_strips(first, second, outputs, strip, 1, sums);
                finish(to, sums[0], sums[1], row, above, at * EDGE);
                finish(to, sums[2], sums[3], row + EDGE, below, at * EDGE);
            }
        }
    _tile_release();
}

void aronnax_multiply(
    const int8_t *tiles, const float *peak, long rows, long inputs, const int8_t *weight, const float *unit,
    const float *bias, long outputs, int planes, int then, int threads, float *out) {
    Finish to = {peak, unit, bias, out, outputs, planes, then};
    long strip = ceiling(inputs, DEPTH) * planes * TILE, strips = ceiling(outputs, EDGE);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; part++)
        multiply_part(tiles, rows, weight, strip, strips * part / threads, strips * (part + 1) / threads, &to);
}
