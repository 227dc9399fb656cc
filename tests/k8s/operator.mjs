// node operator.mjs NODE_MODULES: validates the Prometheus operator's objects, a JSON list on stdin. Prints faults and ends with
// 1 if any.
//
// The compiled validators know types and what is required, and pass over fields that do not exist, as the API server would prune
// them. So each object is shown to them behind a proxy that notes which fields were looked at: one that no validator asked for
// does not exist.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const schemas = join(process.argv[2], '@kubernetes-models/prometheus-operator/_schemas');
const prefix = 'ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1';

function watched(value, path, asked) {
  if (value === null || typeof value !== 'object') return value;
  const kept = new Map();
  return new Proxy(value, {
    get(target, key) {
      if (typeof key !== 'string' || !Object.hasOwn(target, key)) return Reflect.get(target, key);
      const below = `${path}.${key}`;
      asked.add(below);
      if (!kept.has(key)) kept.set(key, watched(target[key], below, asked));
      return kept.get(key);
    },
  });
}

function* fields(value, path) {
  if (value === null || typeof value !== 'object') return;
  for (const [key, below] of Object.entries(value)) {
    yield `${path}.${key}`;
    yield* fields(below, `${path}.${key}`);
  }
}

const faults = [];
for (const object of JSON.parse(readFileSync(0, 'utf8'))) {
  const { validate } = await import(pathToFileURL(join(schemas, `${prefix}${object.kind}.js`)).href);
  const asked = new Set();
  if (!validate(watched(object, object.kind, asked))) {
    const said = ({ instancePath, keyword, params }) => `${object.kind}${instancePath}: ${keyword} ${JSON.stringify(params)}`;
    faults.push(...validate.errors.map(said));
  }
  // A parent that is unknown hides its children: the first is enough.
  const known = (field) => asked.has(field) || field.startsWith(`${object.kind}.metadata.`);
  const unknown = [...fields(object, object.kind)].find((field) => !known(field));
  if (unknown) faults.push(`${unknown}: there is no such field`);
}
if (faults.length > 0) {
  console.log(faults.join('\n'));
  process.exitCode = 1;
}
