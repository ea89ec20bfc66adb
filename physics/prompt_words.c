#include "physics/prompt_words.h"

#include <ctype.h>
#include <string.h>

#include "base/alloc.h"

static bool in_word(unsigned char c)
{
    return isalnum(c) || c >= 0x80;
}

kin_status kin_prompt_split(const char *prompt, kin_prompt_words *out, kin_error *err)
{
    size_t count = 0, bytes;
    *out = (kin_prompt_words){0};
    for (const char *p = prompt; *p; p++)
        count += in_word((unsigned char)p[0]) && !in_word((unsigned char)p[1]);
    if (count > 100000)
        return kin_fail(err, KIN_ERR_ARG, "prompt: %zu words must be at most 100000", count);
    if (!kin_mul_size(count + 1, sizeof *out->word, &bytes) || !(out->word = kin_malloc(bytes)))
        return kin_fail(err, KIN_ERR_MEM, "prompt: %zu words", count);
    size_t n = 0;
    for (const char *p = prompt; *p; p++) {
        if (!in_word((unsigned char)*p))
            continue;
        char *w = out->word[out->count];
        unsigned char c = (unsigned char)*p;
        if (n < KIN_WORD_MAX)
            w[n++] = c < 0x80 ? (char)tolower(c) : (char)c;
        w[n] = 0;
        if (!in_word((unsigned char)p[1])) {
            out->count++;
            n = 0;
        }
    }
    return KIN_OK;
}

void kin_prompt_free(kin_prompt_words *w)
{
    kin_free(w->word);
    *w = (kin_prompt_words){0};
}

const char *kin_prompt_at(const kin_prompt_words *w, int i)
{
    return i >= 0 && i < w->count ? w->word[i] : "";
}

bool kin_word_in(const char *word, const char *list)
{
    size_t len = strlen(word);
    if (len == 0)
        return false;
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, "|");
        if (p[n - 1] == '*' ? len >= n - 1 && strncmp(p, word, n - 1) == 0
                            : len == n && strncmp(p, word, n) == 0)
            return true;
        p += n + (p[n] == '|');
    }
    return false;
}

int kin_prompt_find(const kin_prompt_words *w, int from, const char *list)
{
    for (int i = from; i < w->count; i++)
        if (kin_word_in(w->word[i], list))
            return i;
    return -1;
}

int kin_noun_shape(const char *word)
{
    if (kin_word_in(word,
                    "ball|balls|sphere|spheres|marbles|disc|disk|wheel|apple|bead|pebble|coin"))
        return KIN_SIM_BALL;
    if (kin_word_in(word, "box|boxes|block|blocks|cube|cubes|crate|brick|bricks|book|car|cart|toy|"
                          "object|objects|domino|dominoes|stick|cup|bottle|vase|hammer|pendulum"))
        return KIN_SIM_BOX;
    return -1;
}

bool kin_noun_is_ground(const char *word)
{
    return kin_word_in(word, "floor|ground|ramp|slope|incline|table|desk|surface|plane|plate|wall");
}

int kin_phrase_start(const kin_prompt_words *w, int noun)
{
    int i = noun;
    while (i > 0 && noun - i < 6) {
        const char *p = kin_prompt_at(w, i - 1);
        if (kin_word_in(p, "a|an|the|its|one|two|some|on|onto|off|from|into|down|and|of|with|to") ||
            kin_noun_shape(p) >= 0 || kin_noun_is_ground(p))
            break;
        i--;
    }
    return i;
}

static int count_things(const kin_prompt_words *w)
{
    int n = 0;
    for (int i = 0; i < w->count; i++)
        if (kin_noun_shape(w->word[i]) >= 0) /* a plural counts twice */
            n += w->word[i][strlen(w->word[i]) - 1] == 's' ? 2 : 1;
    return n;
}

static bool denied(const kin_prompt_words *w, int i)
{
    return kin_word_in(kin_prompt_at(w, i - 1), "without|not|never|no");
}

/* True if an undenied word of the list is there. */
static bool says(const kin_prompt_words *w, const char *list)
{
    for (int i = kin_prompt_find(w, 0, list); i >= 0; i = kin_prompt_find(w, i + 1, list))
        if (!denied(w, i))
            return true;
    return false;
}

int kin_prompt_kind(const kin_prompt_words *w)
{
    int things = count_things(w);
    const char *name = NULL;
    if (says(w, "spring"))
        name = "spring";
    else if (things >= 2 && says(w, "hit|hits|strike|strikes|bump|bumps|collide*|colliding|crash*|"
                                    "knock*|collision"))
        name = "collision";
    else if (says(w, "ramp|slope|incline|inclined|downhill"))
        name = "incline";
    else if (says(w, "thrown|throws|throw|tossed|tosses|launched|lobbed") ||
             (says(w, "flies|flying|fly") && says(w, "arc|parabola|arch")))
        name = "throw";
    else if (says(w, "bounce|bounces|bounced|bouncing|rebounds|rebound"))
        name = "bounce";
    else if (things > 0 && says(w, "fall|falls|falling|drop|drops|dropped|dropping|lands"))
        name = "drop";
    else if (things > 0 && says(w, "move|moves|moving|slide|slides|sliding|glide|glides|gliding|"
                                   "travels|travelling|roll|rolls|rolling|drifts"))
        name = "uniform";
    return name ? kin_sim_kind_find(name) : -1;
}
