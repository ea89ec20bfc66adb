#include "physics/prior_rules.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "physics/materials.h"
#include "physics/prompt_words.h"
#include "physics/sim_scene.h"

enum { MAX_DENSITIES = 5 };

/* Words that name a phenomenon by themselves. */
static const struct {
    kin_phys category;
    const char *words;
} rule[] = {
    {KIN_PHYS_COLLISION, "collide*|colliding|collision*|crash*|hits|strikes|smash*|bounc*|impact*"},
    {KIN_PHYS_RIGID_BODY_MOTION, "rolls|rolling|spins|spinning|rotat*|tumbl*|topple*|pendulum"},
    {KIN_PHYS_ELASTIC_MOTION, "bounc*|spring|elastic|rebound*|trampoline|vibrat*|oscillat*"},
    {KIN_PHYS_LIQUID_MOTION,
     "pour|pours|poured|pouring|flow|flows|flowing|splash*|wave|waves|river|"
     "waterfall|rain|drips|dripping|ripple*|liquid|swirl*"},
    {KIN_PHYS_GAS_MOTION, "smoke|steam|fog|mist|cloud*|vapor*|vapour*|wind|gas|fumes"},
    {KIN_PHYS_DEFORMATION,
     "deform*|bend|bends|bending|squeez*|squash*|stretch*|crush*|crumpl*|dent*|"
     "knead*|compress*"},
    {KIN_PHYS_MELTING, "melt|melts|melting|melted|thaw*"},
    {KIN_PHYS_SOLIDIFICATION, "freez*|froze*|solidif*|crystalliz*|hardens"},
    {KIN_PHYS_VAPORIZATION, "boil|boils|boiling|evaporat*|vaporiz*|sublim*"},
    {KIN_PHYS_LIQUEFACTION, "condens*|liquef*|dew"},
    {KIN_PHYS_EXPLOSION, "explod*|explosion*|blast|fireworks|detonat*"},
    {KIN_PHYS_COMBUSTION, "burn|burns|burning|burnt|fire|flame*|ignit*|combustion|campfire"},
    {KIN_PHYS_REFLECTION, "reflect*|mirror*|shiny|glossy"},
    {KIN_PHYS_REFRACTION, "refract*|lens|prism|magnif*"},
    {KIN_PHYS_SCATTERING, "scatter*|fog|haze|mist|sunbeam*"},
    {KIN_PHYS_INTERFERENCE, "interfer*|diffract*|rainbow|iridescent|bubble|bubbles"},
    {KIN_PHYS_UNNATURAL_LIGHT, "lamp*|laser*|neon|led|flashlight|spotlight|bulb"},
    {KIN_PHYS_CAMERA_YES, "camera|pans|panning|zoom*|dolly"},
    {KIN_PHYS_LIQUIDS_APPEAR, "water|milk|oil|honey|juice|liquid|lava|melts|melting|rain|pour*"},
    {KIN_PHYS_GASES_APPEAR, "smoke|steam|fog|vapor*|vapour*|gas|mist|cloud*"},
    {KIN_PHYS_DECOMPOSITION,
     "break|breaks|breaking|shatter*|split|splits|splitting|crumbl*|cut|cuts|"
     "cutting|crack*|burst*|explod*"},
    {KIN_PHYS_MIXING, "mix|mixes|mixed|mixing|stir|stirs|stirred|blend*|dissolv*"},
    {KIN_PHYS_DISAPPEARANCE, "disappear*|vanish*|evaporat*|dissolv*"},
};

/* Temperature spans in degrees Celsius; the first row that matches wins. */
static const struct {
    const char *words;
    double lo, hi;
} temperature_rule[] = {
    {"lava|molten", 700, 1200},
    {"burn|burns|burning|fire|flame*|campfire|explod*|explosion*", 400, 1000},
    {"boil|boils|boiling", 95, 100},
    {"melt|melts|melting|thaw*", 0, 20},
    {"ice|freez*|froze*|snow*|icy", -10, 0},
    {"hot|heated|steam*", 60, 90},
    {"cold|cool|chilled", 0, 10},
};

/* Densities as our records state them: every thing by its material word (plastic without one),
 * every floor or ramp that has one; then substances named alone. In order of mention, a noun once.
 */
static int densities(const kin_prompt_words *w, double out[MAX_DENSITIES][2])
{
    int n = 0, skip_to = -1;
    for (int i = 0; i < w->count && n < MAX_DENSITIES; i++) {
        const char *word = w->word[i];
        bool thing = kin_noun_shape(word) >= 0, ground = kin_noun_is_ground(word);
        const kin_material *m = NULL;
        if (thing || ground) {
            int start = kin_phrase_start(w, i);
            for (int k = start; k < i; k++)
                if (kin_material_find(w->word[k]))
                    m = kin_material_find(w->word[k]);
            bool again = !m && strcmp(kin_prompt_at(w, start - 1), "the") == 0 &&
                         kin_prompt_find(w, 0, word) < i;
            if (thing && !m && !again)
                m = kin_material_plain();
        } else if (i > skip_to && (m = kin_material_find(word)) != NULL) {
            /* a substance by itself, unless it is the adjective of a noun that follows */
            for (int k = i + 1; k <= i + 3 && m; k++) {
                const char *next = kin_prompt_at(w, k);
                if ((kin_noun_shape(next) >= 0 || kin_noun_is_ground(next)) &&
                    kin_phrase_start(w, k) <= i) {
                    skip_to = k;
                    m = NULL;
                }
            }
            if (m && (strcmp(m->name, word) != 0 || kin_prompt_find(w, 0, word) < i))
                m = NULL;
        }
        if (m) {
            out[n][0] = out[n][1] = m->density;
            n++;
        }
    }
    return n;
}

/* "no obvious ..." for every question that the found phenomena leave open. */
static void close_questions(float prior[KIN_PHYS_CATEGORIES], bool solid)
{
    static const kin_phys none[4] = {KIN_PHYS_NO_DYNAMICS, KIN_PHYS_NO_THERMODYNAMICS,
                                     KIN_PHYS_NO_OPTICS, KIN_PHYS_CAMERA_NO};
    for (int q = 0; q < 4; q++) {
        int first = kin_phys_question_first(q), set = 0;
        for (int i = first; i < first + kin_phys_question_count(q); i++)
            set += prior[i] != 0;
        if (set == 0)
            prior[none[q]] = 1;
    }
    if (solid)
        prior[KIN_PHYS_SOLIDS_APPEAR] = 1;
    if (prior[KIN_PHYS_DECOMPOSITION] == 0 && prior[KIN_PHYS_MIXING] == 0 &&
        prior[KIN_PHYS_DISAPPEARANCE] == 0)
        prior[KIN_PHYS_NO_CHANGE] = 1;
}

/* Categories of the words; returns the kind of clip or -1. */
static int categories(const kin_prompt_words *w, float prior[KIN_PHYS_CATEGORIES])
{
    int kind = kin_prompt_kind(w), hits = 0;
    bool solid = false;
    for (int i = 0; i < w->count; i++)
        solid |= kin_noun_shape(w->word[i]) >= 0;
    const kin_sim_row *row = kin_sim_row_at(kind);
    for (int i = 0; row && row->dynamics[i] != KIN_PHYS_NO_DYNAMICS; i++, hits++)
        prior[row->dynamics[i]] = 1;
    for (size_t k = 0; k < sizeof rule / sizeof *rule; k++) {
        /* the kind of clip says all about the dynamics */
        if (row && kin_phys_question(rule[k].category) == 0 &&
            rule[k].category <= KIN_PHYS_ELASTIC_MOTION)
            continue;
        if (kin_prompt_find(w, 0, rule[k].words) >= 0) {
            prior[rule[k].category] = 1;
            hits++;
        }
    }
    if (hits > 0)
        close_questions(prior, solid);
    return kind;
}

static kin_status set_caption(const char *prompt, int kind, kin_physics_prior *out, kin_error *err)
{
    const kin_sim_row *row = kin_sim_row_at(kind);
    const char *law = row ? row->law : "";
    size_t a = strlen(prompt), b = strlen(law);
    out->caption = kin_malloc(a + b + 1);
    if (!out->caption)
        return kin_fail(err, KIN_ERR_MEM, "prior: %zu bytes of prompt", a + b + 1);
    memcpy(out->caption, prompt, a);
    memcpy(out->caption + a, law, b + 1);
    out->caption_bytes = a;
    return KIN_OK;
}

kin_status kin_prior_from_text(const char *prompt, double seconds, kin_physics_prior *out,
                               kin_error *err)
{
    kin_prompt_words w;
    double density[MAX_DENSITIES][2], temperature[2] = {20, 25};
    memset(out, 0, sizeof *out);
    if (!(seconds > 0 && seconds < 1e9))
        return kin_fail(err, KIN_ERR_ARG, "prior: time span %g must be positive seconds", seconds);
    KIN_TRY(kin_prompt_split(prompt, &w, err));
    int kind = -1;
    if (w.count > 0) {
        kind = categories(&w, out->prior);
        int n = densities(&w, density);
        for (size_t k = 0; k < sizeof temperature_rule / sizeof *temperature_rule; k++)
            if (kin_prompt_find(&w, 0, temperature_rule[k].words) >= 0) {
                temperature[0] = temperature_rule[k].lo;
                temperature[1] = temperature_rule[k].hi;
                break;
            }
        kin_quantities_pack(n, (const double(*)[2])density, (double[2]){0, seconds}, temperature,
                            out->quant);
    }
    kin_prompt_free(&w);
    return set_caption(prompt, kind, out, err);
}

char *kin_prior_describe(const kin_physics_prior *prior, char *buf, size_t bytes)
{
    kin_phys_list(prior->prior, -1, buf, bytes);
    if (bytes > 0 && buf[0] == 0)
        snprintf(buf, bytes, "none");
    return buf;
}

double kin_material_density(const char *word)
{
    const kin_material *m = kin_material_find(word);
    return m ? m->density : 0;
}
