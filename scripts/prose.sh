#!/usr/bin/env bash
# Check the prose of README and documentation: house words (scripts/words.py) and grammar (harper, British English).
# Of harper's 900 rules those are left out that judge spelling (names of tools), headings, abbreviations and commas by
# another taste than ours, and the ones that took right sentences for wrong ones here.
set -euo pipefail
cd "$(dirname "$0")/.."
taste=SpellCheck,SentenceCapitalization,UseTitleCase,OxfordComma,LongSentences,CompoundNouns,OrthographicConsistency
taste+=,DisjointPrefixes,SplitWords,MergeWords,NumericRangeEnDash,ExpandControl,ExpandMinimum,ExpandConfiguration
taste+=,ExpandMemoryShorthands,ExpandTimeShorthands,ExpandArgument,ExpandDependencies
wrong=MassNouns,MissingTo,SingleBe,ThatThan,OneOfTheSingular,MissingPreposition,ItsContraction,Damages
python scripts/words.py
git ls-files README.md CONTRIBUTING.md SECURITY.md 'docs/*.md' | grep -v -e docs/reference -e docs/performance.md -e model-card |
  xargs harper --no-color lint --dialect uk --ignore "$taste,$wrong" >build/prose.txt 2>&1 || { cat build/prose.txt; exit 1; }
