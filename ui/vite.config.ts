import { defineConfig } from 'vite';

// `npm run dev` serves the page and hands the API through to a hub on its usual address.
const hub = 'http://127.0.0.1:9190';

export default defineConfig({
  build: { outDir: 'dist', assetsDir: 'assets', target: 'es2022' },
  server: { proxy: { '/api': hub, '/metrics': hub } },
});
